"""What the command line needs of a logger to place it in the folder of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class PlacedLogger(Protocol):
    """A logger that writes below the run's folder, under the run's id."""

    def place(self, folder: Path, experiment: str, run_id: str) -> None:
        """Take the folder, the experiment's name and the run's id, before anything is logged."""
