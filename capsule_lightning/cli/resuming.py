"""The state that training starts from: checked before a run is touched, against what is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L

from capsule_lightning.cli.changes import SCHEDULE, announce_changes, find_changes, require_possible, trained_with
from capsule_lightning.cli.record import RunRecord
from capsule_lightning.errors import require
from capsule_lightning.runs.checkpoint_files import FOLDER, PREVIOUS, require_checkpoint, require_state
from capsule_lightning.runs.files import read_metrics
from capsule_lightning.runs.folders import flat


class Start(NamedTuple):
    """Where training starts.

    Attributes:
        step: training steps that the state has seen.
        is_done: all of the training has been done, and only the end of the run is missing.
    """

    step: int = 0
    is_done: bool = False


def begin_from(path: str | None, trainer: L.Trainer, config: Mapping[str, Any], folder: Path) -> Start:
    """Check the state that training starts from, and hand what is done in another way than before to the run's record.

    Args:
        path: of the checkpoint; None for none.
        trainer: of this start.
        config: what the run's record will say.
        folder: where the run writes.

    Raises:
        InputError: the state is not one to continue from, does not go with what is asked for, or nothing is left to do.
    """
    if path is None:
        return Start()
    checkpoint = require_checkpoint(path)
    require_state(path, checkpoint, trainer.fit_loop.state_dict())
    changes = find_changes(trained_with(path, checkpoint), config)
    require_possible(changes, path, checkpoint, dict(flat(config)).get(SCHEDULE))
    start = Start(checkpoint["global_step"], is_trained(checkpoint, trainer))
    if start.is_done:
        require_end_missing(path, trainer, config["test_after_fit"], folder)
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for record in (each for each in callbacks if isinstance(each, RunRecord)):
        record.changes = changes
    announce_changes(changes)
    return start


def require_end_missing(path: str, trainer: L.Trainer, test_after_fit: bool, folder: Path) -> None:
    """Refuse to train a run for no steps, unless it was left before its end: without the closing test, or just before.

    Raises:
        InputError: the run is finished.
    """
    tested = any(name.startswith("test/") for name in read_metrics(folder / "metrics.csv").history)
    is_closed = not (folder / FOLDER / PREVIOUS).exists() and (tested or not test_after_fit)
    asked, most = ("steps", trainer.max_steps) if trainer.max_steps > 0 else ("epochs", trainer.max_epochs)
    require(
        not is_closed,
        f"{path}: has been trained for {most} {asked}, and no more are asked for: give --trainer.max_{asked} more than "
        f"{most}",
    )


def is_trained(checkpoint: Mapping[str, Any], trainer: L.Trainer) -> bool:
    """Return whether a checkpoint has all the steps or epochs that a trainer is to train."""
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    most = trainer.max_epochs
    by_epochs = most is not None and 0 <= most <= epochs
    return bool(by_epochs or 0 < trainer.max_steps <= checkpoint["global_step"])
