"""The command ``configs``."""

from __future__ import annotations

from collections.abc import Sequence

from capsule_lightning.errors import require
from capsule_lightning.shipped import config_names


def run(words: Sequence[str]) -> None:
    """List the shipped configs: ``configs``."""
    require(len(words) == 1, f"configs: {words[-1]!r} is too much; the command takes no option")
    print("\n".join(config_names()))
