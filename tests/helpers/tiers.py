"""Which cases of a proof represent it in the default tier."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def nightly_but(kept: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """Return the values for ``parametrize``, those that are not kept for the default tier marked ``nightly``."""
    values = list(values)
    missing = [value for value in kept if value not in values]
    assert not missing, f"{missing} represent a proof, and are not among its cases"
    night = {"marks": pytest.mark.nightly}
    return [
        value
        if value in kept
        else pytest.param(*value, **night)
        if isinstance(value, tuple)
        else pytest.param(value, **night)
        for value in values
    ]
