"""How the command line tells a logger where the run writes and how it is configured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Placement(NamedTuple):
    """Where one command on one run writes, and its configuration.

    Attributes:
        folder: folder into which the command writes: the run's, or one named after the command in it.
        run_folder: folder of the run; its name is the run's id.
        command: name of the command, such as ``fit``.
        config: flat configuration, by the keys of the command line.
    """

    folder: Path
    run_folder: Path
    command: str
    config: Mapping[str, Any]


@runtime_checkable
class PlacedLogger(Protocol):
    """A logger that writes into the run's folder, and may name the run after its configuration."""

    def place(self, placement: Placement) -> None:
        """Take the run's folder and configuration, before anything is logged."""
