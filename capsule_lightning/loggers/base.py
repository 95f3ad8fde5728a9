"""What the command line needs of a logger to place it in the folder of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Placement(NamedTuple):
    """One command on one run.

    Attributes:
        folder: where the command writes: the run's folder, or one of the command's name in it.
        run_folder: of the run; its name is the run's id.
        command: such as ``fit``.
        config: flat, with the keys of the command line.
    """

    folder: Path
    run_folder: Path
    command: str
    config: Mapping[str, Any]


@runtime_checkable
class PlacedLogger(Protocol):
    """A logger that writes below the run's folder, and may name the run after its configuration."""

    def place(self, placement: Placement) -> None:
        """Take the run's place and configuration, before anything is logged."""
