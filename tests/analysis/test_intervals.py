"""How sure a measured share is."""

import pytest

from capsule_lightning.analysis.intervals import wilson_interval


def test_wilson_interval_solves_its_equation() -> None:
    for right, count in ((0, 7), (3, 10), (9_960, 10_000), (5, 5)):
        for p in wilson_interval(right, count):
            assert abs(right / count - p) == pytest.approx(1.959964 * (p * (1 - p) / count) ** 0.5, abs=1e-9)
