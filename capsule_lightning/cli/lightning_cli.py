"""Lightning's part of a training command: the trainer, the task and the data, from one mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from capsule_lightning.cli import own_parts
from capsule_lightning.cli.options import OPTIONS
from capsule_lightning.cli.record import RunRecord
from capsule_lightning.cli.trainer_checks import refused, require_launcher, require_resumable
from capsule_lightning.components.build import FROM_DATA, build_part, told_by_data
from capsule_lightning.data.module import DataModule
from capsule_lightning.errors import InputError
from capsule_lightning.loggers.base import PlacedLogger, Placement
from capsule_lightning.runs.checkpoint_files import AtomicCheckpoints
from capsule_lightning.shipped import PROGRAM
from capsule_lightning.tasks.base import Task

PATIENCE = timedelta(minutes=3)
"""How long processes wait for each other, unless a strategy is given its own time: the usual half hour is lost time."""


class DataSummary(L.Callback):
    """Say what is trained on, before the first step."""

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(data := getattr(trainer, "datamodule", None), DataModule) and trainer.is_global_zero:
            rank_zero_info(data.describe())


class CapsuleCLI(LightningCLI):
    """Lightning's command line over tasks and data; it makes the objects, and `perform` runs them.

    Args:
        args: what to make: a mapping that states everything, or ``["--help"]``.
        command: for its help.
        work_folder: where the command writes.
        record: what `RunRecord` keeps of a training run.
        left_out: callbacks and loggers of ours that the run does without, see `own_parts`.

    Raises:
        InputError: a value that cannot be used.
    """

    def __init__(
        self,
        args: ArgsType,
        *,
        command: str,
        work_folder: Path = Path(),
        record: Mapping[str, Any] | None = None,
        left_out: Sequence[str] = (),
    ) -> None:
        self.work_folder, self.record, self.left_out = work_folder, record or {}, left_out
        if isinstance(args, dict):  # of several classes in one place jsonargparse would hide what a class refuses
            self.given_trainer = args["trainer"]
            args = {**args, "trainer": {**args["trainer"], "callbacks": None, "logger": None}}
            args["model"] = told_by_data(args["model"])
        super().__init__(
            Task,
            DataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=None,
            parser_kwargs={
                "prog": f"{PROGRAM} {command}",
                "usage": f"{PROGRAM} {command} [--config NAME]... [--key.subkey VALUE]...",
                "exit_on_error": False,
            },
            run=False,
            args=args,
        )

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, option in OPTIONS.items():
            if name != "seed_everything":
                parser.add_argument(f"--{name}", type=option.annotation, default=option.default, help=option.help)
        for name in FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        if isinstance(args, list):
            self.config = parser.parse_args(args)
            return
        try:
            self.config = parser.parse_object(args, defaults=False)
            self.config_dump = deepcopy(args)  # Lightning reads hyperparameters here; it would dump the config for them
        except (ArgumentError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"the configuration is refused: {reason}; `fit --print_config` shows it whole") from error

    @override
    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        options, config = self.given_trainer, self.config_init.trainer
        given = config.plugins if isinstance(config.plugins, list) else [config.plugins]
        plugins = [*(plugin for plugin in given if plugin is not None), AtomicCheckpoints()]
        left_out, folder = [*self.left_out, *own_parts.switched(options)], str(self.work_folder)
        callbacks = [build_part(each, L.Callback) for each in own_parts.without(options["callbacks"], left_out) or ()]
        require_resumable(callbacks)
        loggers = [own_parts.make_logger(each, folder) for each in own_parts.loggers(options, self.left_out)]
        if not loggers:
            callbacks = [each for each in callbacks if not isinstance(each, LearningRateMonitor)]
        ours: dict[str, Any] = {
            "default_root_dir": folder,
            "plugins": plugins,
            "callbacks": [*callbacks, RunRecord(self.record), DataSummary()],
            "logger": loggers or False,
        }
        ours |= still_whole(options, config)
        if options["barebones"]:
            ours |= {"log_every_n_steps": None, "num_sanity_val_steps": None, "enable_model_summary": None}
        try:
            if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():  # torchrun may run within a job
                plugins.append(SLURMEnvironment(auto_requeue=False))  # which could wait for itself, see `RunCheckpoint`
            trainer = super().instantiate_trainer(**{**ours, "strategy": patient(config.strategy), **kwargs})
            if config.strategy == "auto" and type(trainer.strategy) is DDPStrategy:  # which only the trainer could tell
                trainer = super().instantiate_trainer(**{**ours, "strategy": patient("ddp"), **kwargs})
        except InputError:
            raise
        except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
            raise refused(error, options) from error
        require_launcher(trainer)
        return trainer


def still_whole(given: Mapping[str, Any], parsed: Any) -> dict[str, int]:
    """Return the whole numbers that were given to the trainer and have been parsed as fractions.

    One batch is not 1.0, which means all of them. Python may give the types of ``int | float`` in either order,
    whichever of the two unions was named first in the process, and the parser takes the first that fits.

    Args:
        given: arguments of the trainer.
        parsed: the same as attributes.

    Example:
        >>> from types import SimpleNamespace
        >>> still_whole({"limit_val_batches": 1, "max_epochs": 2}, SimpleNamespace(limit_val_batches=1.0, max_epochs=2))
        {'limit_val_batches': 1}
    """
    return {
        name: value
        for name, value in given.items()
        if type(value) is int and isinstance(getattr(parsed, name, None), float)
    }


def patient(strategy: Any) -> Any:
    """Return a strategy that waits for other processes no longer than `PATIENCE`, if it was given by its name.

    Args:
        strategy: a name that Lightning knows, or an object, which is left as it is.
    """
    if not isinstance(strategy, str) or strategy not in StrategyRegistry:
        return strategy
    known = StrategyRegistry[strategy]
    if known["strategy"] is not DDPStrategy:
        return strategy
    return DDPStrategy(timeout=PATIENCE, **known["init_params"])


def place_loggers(trainer: L.Trainer, placement: Placement) -> None:
    """Let the loggers write into the run's folder."""
    for logger in trainer.loggers:
        if isinstance(logger, PlacedLogger):
            logger.place(placement)
