"""What the trainer is asked for: values that it would take and not work with, and what it says of those it refuses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import LightningEnvironment

from capsule_lightning.cli.faults import first_sentences
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.errors import InputError
from capsule_lightning.tasks.base import Task

#: The smallest value of each option, where the trainer itself takes any.
AT_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "num_sanity_val_steps": -1,
}
#: What leaves nothing to do where it is 0.
NOT_ZERO = ("max_epochs", "max_steps", "limit_train_batches", "val_check_interval")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Routing and losses need float32, so that parameters are never less; the trainer's short names are these too."""
SHORT_PRECISIONS = (None, 32, 16, "32", "16", "bf16")
HARDWARE = ("accelerator", "devices", "num_nodes", "strategy", "precision")


def require_options(options: Mapping[str, Any]) -> None:
    """Refuse values with which a training run cannot do what they ask for.

    Args:
        options: of the trainer, by name.

    Raises:
        InputError: the option, its value and what was expected.
    """
    for name, least in AT_LEAST.items():
        if options[name] is not None and not options[name] >= least:
            raise InputError(f"trainer.{name}={options[name]}: expected at least {least}")
    for name in NOT_ZERO:
        if isinstance(options[name], int | float) and options[name] == 0:
            raise InputError(f"trainer.{name}=0: nothing would be done; expected more, such as 1")
    shortest, longest = options["min_epochs"], options["max_epochs"]
    if shortest is not None and longest is not None and shortest > longest >= 0:
        raise InputError(f"trainer.min_epochs={shortest}, trainer.max_epochs={longest}: expected the latter to be more")
    if options["precision"] not in (*PRECISIONS, *SHORT_PRECISIONS):
        raise InputError(
            f"trainer.precision={options['precision']}: expected one of {', '.join(PRECISIONS)}; routing and losses "
            "compute in float32"
        )


def refused(error: Exception, options: Mapping[str, Any]) -> InputError:
    """What the trainer says of its options, with their values, since it often names neither.

    Args:
        error: that it raised.
        options: of the trainer, by name.
    """
    said = first_sentences(error)
    named = [n for n, value in options.items() if n in said and n not in HARDWARE and not isinstance(value, list)]
    if named:
        return InputError(f"{_values(options, named)}: {said}; correct it, `fit --help_all` says what it takes")
    offered = "cpu, gpu" if torch.cuda.is_available() else "cpu"
    given = [name for name in HARDWARE if options[name] not in ("auto", None, 1)]
    return InputError(
        f"{_values(options, given)}: {said}; this machine offers {offered}, and --trainer.accelerator auto "
        "--trainer.devices auto --trainer.strategy auto take what there is"
    )


def _values(options: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"trainer.{name}={options[name]}" for name in names) or "trainer"


def require_launcher(trainer: L.Trainer) -> None:
    """Refuse to wait for other nodes on which nothing has been started.

    Raises:
        InputError: several nodes, and neither a launcher nor an address to meet at.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"trainer.num_nodes={trainer.num_nodes}: nothing has started this run on several nodes; start it there "
            "with srun or torchrun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each"
        )


def require_monitors(trainer: L.Trainer, task: Task, data: ImageDataModule) -> None:
    """Refuse to wait an epoch for a metric that will not come.

    Classes from elsewhere may log what cannot be known here: where there is one, nothing is refused.

    Raises:
        InputError: a callback that monitors an unknown metric, or one of validation images that are not held out.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if not all(map(_known, (task, *callbacks))):
        return
    names = [*task.metrics("val"), *task.loss_names]
    for callback in callbacks:
        monitor, name = getattr(callback, "monitor", None), type(callback).__name__
        if monitor is None:
            continue
        known = [f"{stage}/{each}" for stage in ("val", "train") for each in names]
        if monitor not in known:
            raise InputError(f"{name}: monitor={monitor}: no such metric; expected one of {', '.join(known)}")
        held_out = data.val_size != 0 and trainer.limit_val_batches != 0
        if monitor.startswith("val/") and not held_out and name == "EarlyStopping":
            raise InputError(
                f"EarlyStopping: monitor={monitor}: no images are held out to measure it; set --data.val_size 0.1, or "
                "monitor train/loss"
            )


def _known(part: object) -> bool:
    return type(part).__module__.split(".")[0] in ("capsule_lightning", "lightning")
