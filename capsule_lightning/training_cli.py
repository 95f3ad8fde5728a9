"""The training commands: Lightning's command line with configs by name, readable errors and one folder a run."""

from __future__ import annotations

import logging
import os
import pkgutil
import shlex
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

import capsule_lightning
from capsule_lightning.callbacks.checkpoint import RunCheckpoint
from capsule_lightning.cli import CONFIG_DIR, PROGRAM, find_config
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.errors import InputError
from capsule_lightning.heap import keep_heap
from capsule_lightning.loggers.base import PlacedLogger
from capsule_lightning.loggers.wandb import finish
from capsule_lightning.parser import ConfigFile, Parser, nulls_as_configs
from capsule_lightning.runs import (
    CONFIG_NAME,
    ID_VARIABLE,
    new_run_id,
    require_checkpoint,
    require_writable,
    run_of_checkpoint,
)
from capsule_lightning.tasks.base import Task

COMPONENTS = ("callbacks", "data", "decoders", "encoders", "loggers", "losses", "models", "routing", "tasks")


def run(words: list[str]) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``."""
    keep_heap()
    quieten()
    import_components()
    inherited, exit_code = ID_VARIABLE in os.environ, 1
    try:
        CapsuleCLI(words)
        exit_code = 0
    except Exception as error:
        chain: BaseException | None = error
        while chain is not None:  # the parser wraps what a constructor refuses
            if isinstance(chain, InputError):
                raise chain from None
            chain = chain.__cause__ or chain.__context__
        raise
    finally:
        finish(exit_code)
        if not inherited:
            os.environ.pop(ID_VARIABLE, None)


def quieten() -> None:
    """Leave out what Lightning says that no user of ours can act on."""
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    warnings.filterwarnings("ignore", message=r"The dirpath has changed from")  # as it does for test and validate
    rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    rank_zero.addFilter(lambda record: "litlogger" not in record.getMessage())


def import_components() -> None:
    """Import every module that defines a class a config may name, so that its short name is known."""
    for component in COMPONENTS:
        package = import_module(f"{capsule_lightning.__name__}.{component}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config into the folder of a training run, and flat into its loggers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Once, on rank zero; evaluation leaves the config of the run it looks at alone."""
        if stage != "fit" or getattr(trainer, "fast_dev_run", False):
            return
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        config |= {"run_id": None, "ckpt_path": None}  # of this start alone: the file may start another run
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_NAME).write_text(yaml.safe_dump(config, sort_keys=False))
        for logger in trainer.loggers:
            logger.log_hyperparams(dict(flat(config)))


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys equal to those of the command line, so that sweeps, filters and grouping need no translation.

    Example:
        >>> dict(flat({"model": {"class_path": "a.b.Task", "init_args": {"lr": 0.1}}}))
        {'model': 'Task', 'model.lr': 0.1}
    """
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and "class_path" in value:
            yield name, value["class_path"].rsplit(".", 1)[-1]
            yield from flat(value.get("init_args") or {}, f"{name}.")
        elif isinstance(value, dict) and value:
            yield from flat(value, f"{name}.")
        else:
            yield name, value


class CapsuleCLI(LightningCLI):
    """Lightning's command line over tasks and image data.

    Args:
        words: a command and its options.
    """

    run_folder: Path
    """Of the run, which for evaluation is that of the checkpoint."""
    work_folder: Path
    """Where this command writes: the run's folder, or a folder of the command's name in it."""

    def __init__(self, words: list[str]) -> None:
        self.command = words[0]
        super().__init__(
            Task,
            ImageDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            trainer_defaults={"use_distributed_sampler": False},
            parser_class=Parser,
            save_config_callback=SaveConfig,
            args=words,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command that is run alone: the options of the other three need not be worked out."""
        return {self.command: LightningCLI.subcommands()[self.command]}

    def _setup_parser_kwargs(self, parser_kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        main: dict[str, Any] = {"prog": PROGRAM, **parser_kwargs}
        command = {
            name: {
                "usage": f"{PROGRAM} {name} [--config NAME]... [--key.subkey VALUE]...",
                "default_config_files": [str(CONFIG_DIR / "default.yaml")],
            }
            for name in self.subcommands()
        }
        return main, command

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser whose ``--config`` knows the shipped files."""
        parser = self.parser_class(**kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=ConfigFile,
            help="a YAML file or the name of a shipped one; may be repeated, later ones win",
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of the run, and the shapes that the data tell the task."""
        parser.add_argument("--experiment", type=str, default="capsules", help="name of the runs that belong together")
        parser.add_argument("--runs", type=str, default="runs", help="folder of all experiments")
        parser.add_argument("--run_id", type=str | None, default=None, help="of this run; drawn where null")
        parser.add_argument("--test_after_fit", type=bool, default=True, help="end `fit` with a test of its result")
        for name in ("in_shape", "num_classes"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Beneath the words of the command line lies the config of the checkpoint's run, or that of the digits."""
        assert isinstance(args, list)
        command, *words = args
        checkpoint = option(words, "--ckpt_path")
        base: list[str] = []
        if checkpoint is not None and Path(checkpoint).is_file():
            folder = run_of_checkpoint(checkpoint)
            base = [] if folder is None else ["--config", str(folder / CONFIG_NAME)]
        elif not any(option(words, name) for name in ("--config", "-c", "--data", "--data.class_path")):
            base = ["--config", find_config("digits.yaml")]
        self.config = parser.parse_args([command, *base, *nulls_as_configs(words)])

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the checkpoint's hyperparameters overrule the command line; here the run's own config is
        # the lowest layer instead, see parse_arguments.
        return

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot work, and choose the folder of the run."""
        config = self.config[self.subcommand]
        checkpoint = config.get("ckpt_path")
        if checkpoint is None and self.subcommand != "fit":
            raise InputError(f"{self.subcommand} needs a trained network: --ckpt_path runs/.../checkpoints/last.ckpt")
        if checkpoint is not None:
            require_checkpoint(checkpoint)
        folder = None if checkpoint is None else run_of_checkpoint(checkpoint)
        if folder is None or config.run_id is not None:
            if config.run_id is not None:
                os.environ[ID_VARIABLE] = config.run_id
            folder = Path(config.runs).expanduser() / config.experiment / new_run_id()
        self.run_folder = folder
        if self.subcommand != "fit":
            folder = folder / str(self.subcommand)
        if config.trainer.default_root_dir is not None:
            folder = Path(config.trainer.default_root_dir).expanduser()
        self.work_folder = folder
        if getattr(rank_zero_only, "rank", 0) == 0:
            require_writable(folder)
        if self.subcommand == "predict":
            config.return_predictions = False  # the callbacks have written what is wanted

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """A trainer whose loggers write into the run's folder."""
        trainer = super().instantiate_trainer(default_root_dir=str(self.work_folder), **kwargs)
        for logger in trainer.loggers:
            if isinstance(logger, PlacedLogger):
                logger.place(self.work_folder, self.config[self.subcommand].experiment, self.run_folder.name)
        return trainer

    def after_fit(self) -> None:
        """Test what was trained, and say where it is."""
        checkpoints = self.trainer.checkpoint_callback
        path = ""
        if isinstance(checkpoints, RunCheckpoint):
            path = checkpoints.best_model_path or checkpoints.last_model_path
        if self.config[self.subcommand].test_after_fit:
            self.trainer.test(self.model, self.datamodule, ckpt_path=path or None)
        self._say_where(path)

    @rank_zero_only
    def _say_where(self, checkpoint: str) -> None:
        if checkpoint:
            path = os.path.relpath(checkpoint)
            path = str(checkpoint) if path.startswith("..") else path
            print(f"\nrun:        {self.run_folder}\ncheckpoint: {path}")
            print(f"test it:    python -m {PROGRAM} test --ckpt_path {shlex.quote(path)}", file=sys.stdout, flush=True)


def option(words: list[str], name: str) -> str | None:
    """The value of an option among words, in either form, ``--name value`` or ``--name=value``.

    Example:
        >>> option(["--a=1", "--b", "2"], "--b")
        '2'
    """
    for number, word in enumerate(words):
        if word == name:
            return words[number + 1] if number + 1 < len(words) else None
        if word.startswith(f"{name}="):
            return word.split("=", 1)[1]
    return None
