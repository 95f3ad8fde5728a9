"""What a resumed run is asked to do in another way than its checkpoint was trained: refused, or done and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from capsule_lightning.components.names import modernized
from capsule_lightning.components.slots import subclasses
from capsule_lightning.errors import InputError, require
from capsule_lightning.runs.checkpoint_files import within_epoch
from capsule_lightning.runs.choice import config_of
from capsule_lightning.runs.files import read_yaml
from capsule_lightning.runs.folders import flat, run_of_checkpoint
from capsule_lightning.schedules import Schedule

OPTIMIZER = "model.optimizer."
RATE = f"{OPTIMIZER}lr"
SCHEDULE = "model.lr_scheduler"
EXAMPLES = (
    *("seed_everything", "data", "data.seed", "data.val_size", "data.test_size", "data.folds", "data.fold"),
    "data.fake",
)
"""Options that choose the examples, their split and their order, of which an epoch has seen a part."""
STATE = ("model", "model.optimizer")
"""Classes whose state the checkpoint holds."""
RATES = ("frozen", "layer_decay")
"""Options of a part of the network that say which of its weights are trained, and how fast, as the state does."""
SPEED = ("fused", "foreach", "capturable", "differentiable", "maximize")
"""Switches of torch's optimizers that leave their state as it is."""
FREE = (
    "runs",
    "run_id",
    "experiment",
    "ckpt_path",
    "resume",
    "test_after_fit",
    "trainer.logger",
    "trainer.default_root_dir",
)
"""Options of one start, which say nothing about how is trained."""
FEW = 6


class Change(NamedTuple):
    """An option that a resumed run has another value of.

    Attributes:
        key: as on the command line.
        before: its value when the checkpoint was trained.
        now: its value from here on.
    """

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        """Return it as the command line has it, with the value before; lists by their name alone."""
        if isinstance(self.now, list | dict) and len(str(self.now)) > 40:
            return f"another {self.key}"
        return f"{self.key}={self.now} (was {self.before})"


def trained_with(path: str | Path, checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration that a checkpoint was trained with: its own, or that of its run; empty if unknown.

    Args:
        path: of the checkpoint.
        checkpoint: its content.
    """
    callbacks = checkpoint.get("callbacks")
    kept = callbacks.get("RunRecord") if isinstance(callbacks, Mapping) else None
    config = kept.get("config") if isinstance(kept, Mapping) else None
    if not isinstance(config, Mapping):
        folder = run_of_checkpoint(path)
        file = None if folder is None else config_of(folder)
        config = {} if file is None else read_yaml(file)
    return dict(modernized(dict(config)))


def find_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Return the options that both configurations state, and that differ.

    Example:
        >>> find_changes({"model": {"lr": 0.1}, "runs": "a"}, {"model": {"lr": 0.2}, "runs": "b"})
        [Change(key='model.lr', before=0.1, now=0.2)]
    """
    old, new = dict(flat(before)), dict(flat(now))
    return [Change(k, old[k], new[k]) for k in new if k in old and old[k] != new[k] and k not in FREE]


def require_possible(
    changes: Sequence[Change], path: str | Path, checkpoint: Mapping[str, Any], schedule: str | None = None
) -> None:
    """Refuse changes that a checkpoint's state does not allow.

    Args:
        changes: from the configuration of the checkpoint.
        path: of the checkpoint.
        checkpoint: its content.
        schedule: name of the class of the schedule from here on.

    Raises:
        InputError: another seed, split, data set or kind of optimizer, other frozen weights or rates of them, another
            batch size within an epoch, or another schedule, unless both are in closed form.
    """
    closed = [None, *(cls.__name__ for cls in subclasses(Schedule))]
    for change in changes:
        key, name = change.key, change.key.removeprefix(OPTIMIZER)
        new_run = f"leave --{key} out, or start a new run with it"
        is_switch = key.startswith(OPTIMIZER) and isinstance(change.now, bool) and name not in SPEED
        of_rates = key.startswith("model.") and key.rpartition(".")[2] in RATES
        if key in EXAMPLES:
            raise InputError(
                f"{key}={change.now}: {path} was trained with {change.before}, on another choice or order of the "
                f"examples; {new_run}"
            )
        of_schedule = key == SCHEDULE and (change.before is None or not {change.before, change.now} <= {*closed})
        if (
            key in STATE
            or is_switch
            or of_rates
            or of_schedule
            or (key.startswith(f"{SCHEDULE}.") and schedule not in closed)
        ):
            raise InputError(
                f"{key}={change.now}: {path} was trained with {change.before} and holds the state of that; {new_run}"
            )
        require(
            key != "data.batch_size" or not within_epoch(checkpoint),
            f"{key}={change.now}: {path} was saved within an epoch of batches of {change.before}; {new_run}, or resume "
            "from the end of an epoch",
        )


def announce_changes(changes: Sequence[Change]) -> None:
    """Print in one line what is done in another way from here on."""
    if changes:
        more = f" and {len(changes) - FEW} more" if len(changes) > FEW else ""
        rank_zero_info(f"changed from here on: {', '.join(map(str, changes[:FEW]))}{more}")


def apply_changes(changes: Sequence[Change], trainer: L.Trainer) -> None:
    """Do what the state of the checkpoint would undo: it holds the optimizer's values, and those of its schedule.

    Args:
        changes: that are possible.
        trainer: has just loaded the checkpoint.
    """
    keys = [change.key for change in changes]
    if RATE not in keys and any(key.startswith(SCHEDULE) for key in keys):
        change_rate(trainer, 1.0, 1.0)
    for change in changes:
        if change.key == RATE:
            change_rate(trainer, change.before, change.now)
        elif change.key.startswith(OPTIMIZER):
            for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
                name = change.key.removeprefix(OPTIMIZER)
                if name in group:
                    group[name] = tuple(change.now) if isinstance(group[name], tuple) else change.now


def change_rate(trainer: L.Trainer, before: float, now: float) -> None:
    """Let an optimizer learn at another rate from the next step on, with the course of its schedule, if it has one.

    Args:
        trainer: holds optimizers and schedules.
        before: the rate that schedules started from.
        now: the one in its place.
    """

    def changed(rate: float) -> float:
        return now if rate == before or not before else rate * now / before

    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    for schedule in schedules:
        if not isinstance(schedule, Schedule) and hasattr(schedule, "base_lrs"):
            # ours has those of the configuration
            schedule.base_lrs = [changed(float(rate)) for rate in schedule.base_lrs]
    of_schedules: dict[Optimizer, list[Any]] = {s.optimizer: s.get_lr() for s in schedules if isinstance(s, Schedule)}
    for optimizer in trainer.optimizers:
        rates = of_schedules.get(optimizer)
        for number, group in enumerate(optimizer.param_groups):
            first = group.get("initial_lr", group["lr"])
            group["lr"] = rates[number] if rates else changed(group["lr"] if schedules else first)
            if "initial_lr" in group:
                group["initial_lr"] = changed(first)


def patience_of(trainer: L.Trainer) -> dict[EarlyStopping, int]:
    """Return the patience that each `EarlyStopping` was given, which a checkpoint would replace by its own."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return {each: each.patience for each in callbacks if isinstance(each, EarlyStopping)}
