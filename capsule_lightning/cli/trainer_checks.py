"""What the trainer is asked for: values with which a run cannot do what they ask for are refused before it is made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import StrategyRegistry
from torch import nn

from capsule_lightning.cli.faults import first_sentences
from capsule_lightning.data.module import DataModule
from capsule_lightning.errors import InputError, nearest, require
from capsule_lightning.runs.signals import rank
from capsule_lightning.tasks.base import Task

AT_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "max_epochs": -1,
    "max_steps": -1,
    "num_nodes": 1,
    "num_sanity_val_steps": -1,
}
"""The smallest value of each of these options."""
NOT_ZERO = ("max_epochs", "max_steps", "limit_train_batches", "val_check_interval")
"""Options that leave nothing to do if they are 0."""
SHARES = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches")
"""Options that take a number of batches, or a fraction of them."""
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Routing and losses need float32, so that parameters are never less; the trainer's short names are these too."""
SHORT_PRECISIONS = (None, 32, 16, "32", "16", "bf16")
CHOICES = {
    "gradient_clip_algorithm": ("norm", "value"),
    "profiler": ("simple", "advanced", "pytorch", "xla"),
}
"""What options take that are not limited by their type."""
REFUSED = {
    LearningRateFinder: "the rate that it finds would stand in no record of the run, and its schedule would take it "
    "back; compare rates by a study: `each: {model.optimizer.lr: [0.0003, 0.001, 0.003]}`",
    BatchSizeFinder: "the size that it finds would stand in no record of the run; Forecast says at the start of every "
    "run which --data.batch_size fits",
    ModelPruning: "it renames the weights that it prunes, so that no checkpoint of the run could be loaded; prune the "
    "network that `export` writes",
    StochasticWeightAveraging: "it puts its average into the weights after the last checkpoint, and does not resume "
    "exactly; use EMAWeightAveraging, whose average every checkpoint holds",
}
"""Callbacks of Lightning that are no callbacks of a run, why, and what does the same."""
HARDWARE = ("accelerator", "devices", "num_nodes", "strategy", "precision")
TAKE_WHAT_THERE_IS = "--trainer.accelerator auto --trainer.devices auto --trainer.strategy auto take what there is"


def require_options(options: Mapping[str, Any]) -> None:
    """Refuse values with which a training run cannot do what they ask for.

    Args:
        options: of the trainer, by name.

    Raises:
        InputError: the option, its value and what was expected.
    """
    for name, least in AT_LEAST.items():
        value = options[name]
        require(value is None or value >= least, f"trainer.{name}={value}: expected at least {least}")
    for name in NOT_ZERO:
        value = options[name]
        is_zero = isinstance(value, int | float) and value == 0
        require(not is_zero, f"trainer.{name}=0: nothing would be done; expected more, such as 1")
    for name in SHARES:
        value = options[name]
        fits = value is None or (0 <= value <= 1 if isinstance(value, float) and value % 1 else value >= 0)
        require(fits, f"trainer.{name}={value}: expected a fraction in [0.0, 1.0] or a number of batches")
    for name, choices in CHOICES.items():
        value = options[name]
        known = not isinstance(value, str) or value in choices
        require(known, f"trainer.{name}={value}: expected one of {', '.join(choices)}{nearest(str(value), choices)}")
    shortest, longest = options["min_epochs"], options["max_epochs"]
    require(
        shortest is None or longest is None or not shortest > longest >= 0,
        f"trainer.min_epochs={shortest}, trainer.max_epochs={longest}: expected the latter to be more",
    )
    require(
        options["precision"] in (*PRECISIONS, *SHORT_PRECISIONS),
        f"trainer.precision={options['precision']}: expected one of {', '.join(PRECISIONS)}; routing and losses "
        "compute in float32",
    )
    require_hardware(options)


def require_hardware(options: Mapping[str, Any]) -> None:
    """Refuse the names of accelerators and strategies that the trainer does not know, and no devices.

    Args:
        options: of the trainer, by name.

    Raises:
        InputError: the option, its value and what this machine offers.
    """
    known = {
        "accelerator": ("auto", "gpu", *AcceleratorRegistry.available_accelerators()),
        "strategy": ("auto", *StrategyRegistry.available_strategies()),
    }
    for name, names in known.items():
        value = options[name]
        is_known = not isinstance(value, str) or value in names
        similar = nearest(str(value), names)
        require(is_known, f"trainer.{name}={value}: there is none of this name{similar}; {_offer()}")
    devices = options["devices"]
    number = isinstance(devices, str) and devices.lstrip("-").isdecimal()
    count = int(devices) if number or type(devices) is int else 1
    word = not isinstance(devices, str) or number or devices == "auto" or "," in devices
    require(word and (count > 0 or count == -1), f"trainer.devices={devices}: expected an int > 0, or auto; {_offer()}")


def refused(error: Exception, options: Mapping[str, Any]) -> InputError:
    """Describe what the trainer refuses, with the hardware that was asked for, since it often names neither.

    Args:
        error: what it raised.
        options: of the trainer, by name.
    """
    given = [f"trainer.{name}={options[name]}" for name in HARDWARE if options[name] not in ("auto", None, 1)]
    return InputError(f"{', '.join(given) or 'trainer'}: {first_sentences(error)}; {_offer()}")


def _offer() -> str:
    return f"this machine offers {'cpu, gpu' if torch.cuda.is_available() else 'cpu'}, and {TAKE_WHAT_THERE_IS}"


def require_launcher(trainer: L.Trainer) -> None:
    """Refuse to wait for other nodes on which nothing has been started.

    Raises:
        InputError: the run is to have several nodes, and there is neither a launcher nor an address to meet at.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"trainer.num_nodes={trainer.num_nodes}: nothing has started this run on several nodes; start it there "
            "with srun or torchrun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each"
        )
    if trainer.world_size == 1 and rank() != 0:
        raise InputError(
            f"the environment says that this process is number {rank()} of several, and the run has one: unset RANK, "
            "LOCAL_RANK and NODE_RANK, or give --trainer.devices and --trainer.num_nodes"
        )


def require_resumable(callbacks: Sequence[L.Callback]) -> None:
    """Refuse callbacks of Lightning with which a run could not do what it says, or not be resumed.

    Raises:
        InputError: such a callback, the reason, and what does the same.
    """
    for callback in callbacks:
        for kind, reason in REFUSED.items():
            require(not isinstance(callback, kind), f"{type(callback).__name__}: {reason}")


def require_steps(task: Task) -> None:
    """Refuse an optimizer that cannot make a plain step with the gradients of this network.

    Raises:
        InputError: the optimizer refuses the network's parameters or dense gradients, or needs the loss several times.
    """
    remedy = "choose another, such as torch.optim.Adam, torch.optim.AdamW or torch.optim.SGD"
    try:
        task.make_optimizer([p for p in task.parameters() if p.requires_grad])
        probe = nn.Parameter(torch.zeros(2, 2))
        probe.grad = torch.zeros_like(probe)
        optimizer = task.make_optimizer([probe])
        name = type(optimizer).__name__
        require(
            "history_size" not in optimizer.defaults and not isinstance(optimizer, torch.optim.LBFGS),
            f"model.optimizer={name}: it evaluates the loss several times in a step, of which the checks for NaN, the "
            f"logs and accumulated gradients know one; {remedy}",
        )
        optimizer.step()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model.optimizer: {first_sentences(error)}; {remedy}") from error


def require_monitors(trainer: L.Trainer, task: Task, data: DataModule) -> None:
    """Refuse to wait an epoch for a metric that will not come.

    Classes from elsewhere may log what cannot be known here: if there is one, nothing is refused.

    Raises:
        InputError: a callback monitors an unknown metric, or one of validation images that are not held out, or asks
            for a part that the task does not have.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    freezes = any(isinstance(each, BackboneFinetuning) for each in callbacks)
    require(
        not freezes or hasattr(task, "backbone"),
        f"BackboneFinetuning: freezes the `backbone` of a task, and {type(task).__name__} has none; leave it out",
    )
    if not all(map(_is_known, (task, *callbacks))):
        return
    names = {"val": [*task.metrics("val"), *task.loss_names], "train": [*task.training_names, *task.loss_names]}
    for callback in callbacks:
        monitor, name = getattr(callback, "monitor", None), type(callback).__name__
        if monitor is None or getattr(callback, "asks_task", False):
            continue
        known = [f"{stage}/{each}" for stage in names for each in names[stage]]
        require(monitor in known, f"{name}: monitor={monitor}: no such metric; expected one of {', '.join(known)}")
        held_out = data.val_size != 0 and trainer.limit_val_batches != 0
        if monitor.startswith("val/") and not held_out and name == "EarlyStopping":
            raise InputError(
                f"EarlyStopping: monitor={monitor}: no images are held out to measure it; set --data.val_size 0.1, or "
                "monitor train/loss"
            )


def _is_known(part: object) -> bool:
    return type(part).__module__.split(".")[0] in ("capsule_lightning", "lightning")
