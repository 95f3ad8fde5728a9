"""The training commands: Lightning's command line with configs by name, readable errors and one folder a run."""

from __future__ import annotations

import atexit
import json
import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from capsule_lightning.callbacks.checkpoint import RunCheckpoint
from capsule_lightning.cli.faults import explain
from capsule_lightning.cli.parser import ConfigFile, Parser, nulls_as_configs
from capsule_lightning.cli.trainer_checks import refused, require_launcher, require_monitors, require_options
from capsule_lightning.components import import_components
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.errors import InputError
from capsule_lightning.kernels.heap import keep_heap
from capsule_lightning.loggers.base import PlacedLogger, Placement
from capsule_lightning.loggers.wandb import finish
from capsule_lightning.runs.checkpoint_files import (
    FOLDER,
    TRAINING_STATE,
    VERSION,
    AtomicCheckpoints,
    newest_checkpoint,
    require_checkpoint,
    require_weights,
)
from capsule_lightning.runs.folders import (
    CONFIG_NAME,
    ID_VARIABLE,
    NEWEST,
    flat,
    hold,
    known_run_id,
    let_go,
    named_run,
    new_run_id,
    newest_run,
    require_name,
    require_writable,
    restarted,
    run_of_checkpoint,
)
from capsule_lightning.runs.signals import SIGNALS, Interrupted, end_with_parent, rank
from capsule_lightning.sharing.network_file import (
    evaluation_config,
    filled,
    images_of,
    is_shared,
    read_metadata,
    read_tensors,
    require_source,
)
from capsule_lightning.shipped import CONFIG_DIR, PROGRAM, find_config
from capsule_lightning.tasks.base import Task

PATIENCE = timedelta(minutes=3)
"""What processes wait for each other, where a strategy is not given its own time: the usual half hour is lost time."""


def run(words: Sequence[str]) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        InputError: wrong input.
        StoppedError: training could not go on.
        SystemExit: the run was left on a signal, its state saved.
    """
    keep_heap()
    quieten()
    atexit.register(SIGNALS.ignore)  # an exception could not be raised from there
    inherited, exit_code = ID_VARIABLE in os.environ, 1
    if inherited and "LOCAL_RANK" in os.environ:
        end_with_parent()
    try:
        import_components()
        CapsuleCLI(["--help" if word == "--help_all" else word for word in words])
        exit_code = 0
    except Interrupted as signalled:
        SIGNALS.ignore()  # SLURM sends SIGTERM to a job that is put into the queue again
        exit_code = signalled.number
        raise
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        raise known from error
    finally:
        finish(exit_code)
        let_go()
        if not inherited:
            os.environ.pop(ID_VARIABLE, None)


def quieten() -> None:
    """Leave out what Lightning says that no user of ours can act on."""
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # a resumed run's is
    warnings.filterwarnings("ignore", message=r"The `srun` command is available")  # on the login nodes of clusters
    rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    rank_zero.addFilter(lambda record: "litlogger" not in record.getMessage())


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config into the folder of a training run, and flat into its loggers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Nothing yet: a run that cannot go on must not change its own record."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The weights and the optimizer's state are in place."""
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Once, on rank zero; evaluation leaves the config of the run it looks at alone."""
        if getattr(trainer, "fast_dev_run", False):
            return
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        config |= {"run_id": None, "ckpt_path": None}  # of this start alone: the file may start another run
        config.pop("resume", None)  # and the other commands do not know it
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{CONFIG_NAME}.partial"
        partial.write_text(yaml.safe_dump(config, sort_keys=False))
        partial.replace(folder / CONFIG_NAME)  # never half a file, also on a full disk
        for logger in trainer.loggers:
            logger.log_hyperparams(dict(flat(config)))


class CapsuleCLI(LightningCLI):
    """Lightning's command line over tasks and image data.

    Args:
        words: a command and its options.
    """

    run_folder: Path
    """Of the run, which for evaluation is that of the checkpoint."""
    holds: bool = False
    """Whether this process is the one that trains in the work folder."""
    work_folder: Path
    """Where this command writes: the run's folder, or a folder of the command's name in it."""

    checkpoint: dict[str, Any] | None = None
    """Of ``ckpt_path``, its tensors without their data."""
    shared: str | None = None
    """``ckpt_path`` where that is a shared network: a file of `export`, or the name of one that is shipped."""

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
        if self.command == "fit":
            parser.add_argument(
                "--resume",
                type=str | None,
                nargs="?",
                const=NEWEST,
                default=None,
                help="go on with the newest good checkpoint of a run, named by its folder or its id; without a name: "
                "of this job's run, or else of the newest one. Where there is no checkpoint, begin at the beginning",
            )
        for name in ("in_shape", "num_classes"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Beneath the words lies the config of the run that goes on or of the shared network, or that of the digits."""
        assert isinstance(args, list)
        command, *words = args
        if command == "fit" and option(words, "--ckpt_path") == "last":
            words = [*without(words, "--ckpt_path"), "--resume"]
        configured = any(option(words, name) for name in ("--config", "-c", "--data", "--data.class_path"))
        folder = self._run_that_goes_on(words, configured)
        base: list[str] = []
        given = option(words, "--ckpt_path")
        if given is not None and is_shared(given):
            if command == "fit":
                raise InputError(f"ckpt_path={given}: holds weights alone, and no state that training could go on from")
            self.shared = given
            base = ["--config", json.dumps(evaluation_config(given))]
        elif folder is not None and (folder / CONFIG_NAME).is_file():
            base = ["--config", str(folder / CONFIG_NAME)]
        elif not configured:
            base = ["--config", find_config("digits.yaml")]
        self.config = parser.parse_args([command, *base, *nulls_as_configs(words)])

    def _run_that_goes_on(self, words: list[str], configured: bool) -> Path | None:
        """The run whose configuration lies beneath the words: that of a checkpoint, or of a run that is resumed.

        A job that is queued again says all that it said the first time, so where there is a configuration among the
        words, ``--resume`` without a name needs no other.
        """
        checkpoint, root = option(words, "--ckpt_path"), Path(option(words, "--runs") or "runs").expanduser()
        if checkpoint is not None and Path(checkpoint).is_file():
            return run_of_checkpoint(checkpoint)
        if not any(word == "--resume" or word.startswith("--resume=") for word in words):
            return None
        name = option(words, "--resume") or NEWEST
        if not (name == NEWEST or name.startswith("-")):
            return named_run(name, root)
        run_id = option(words, "--run_id") or known_run_id()
        if configured:
            return None
        experiment = option(words, "--experiment") or "*"
        if run_id is None:
            return newest_run(root, experiment)
        found = sorted(root.glob(f"{experiment}/{run_id}"))
        if len(found) > 1:
            raise InputError(f"{len(found)} runs are named {run_id!r}: {found[0]}, {found[1]}; name one by its folder")
        return found[0] if found else None

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the checkpoint's hyperparameters overrule the command line; here the run's own config is
        # the lowest layer instead, see parse_arguments.
        return

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot work, and choose the folder of the run."""
        config = self.config[self.subcommand]
        if self.command == "fit" and config.ckpt_path == "last":
            config.ckpt_path, config.resume = None, config.resume or NEWEST
        checkpoint, resume, run_id = (config.get(name) for name in ("ckpt_path", "resume", "run_id"))
        if checkpoint is not None and resume is not None:
            raise InputError(
                f"ckpt_path={checkpoint}, resume={resume}: both say what to go on from; give one of the two"
            )
        if run_id is not None and resume not in (None, NEWEST) and Path(resume).name != run_id:
            raise InputError(f"run_id={run_id}, resume={resume}: are two runs; give one of the two options")
        for name in ("in_shape", "num_classes"):
            if config.model.init_args.get(name) is not None:
                raise InputError(f"model.{name}={config.model.init_args[name]}: the data say it; leave the option out")
        if self.command == "fit":
            require_options(vars(config.trainer))
        if checkpoint is None and self.subcommand != "fit":
            raise InputError(f"{self.subcommand} needs a trained network: --ckpt_path runs/.../checkpoints/last.ckpt")
        if self.shared is not None:
            config.ckpt_path = None  # the trainer could not read it
        elif checkpoint is not None:
            require_source(checkpoint)
            needed = (VERSION, *TRAINING_STATE) if self.command == "fit" else (VERSION,)
            self.checkpoint = require_checkpoint(checkpoint, needed)
        config.weights_only = True  # a checkpoint is values, and never code
        self.run_folder = folder = self._choose_folder()
        if self.subcommand != "fit":
            folder = folder / str(self.subcommand)
        if config.trainer.default_root_dir is not None:
            folder = Path(config.trainer.default_root_dir).expanduser()
        self.work_folder = folder
        if rank() == 0:
            require_writable(folder)
        if self.subcommand == "predict":
            config.return_predictions = False  # the callbacks have written what is wanted

    def _choose_folder(self) -> Path:
        """The folder of the run that goes on, of the checkpoint's run, or a new one."""
        config = self.config[self.subcommand]
        checkpoint, resume = config.get("ckpt_path"), config.get("resume")
        experiments, folder = Path(config.runs).expanduser(), None
        if config.run_id is not None:
            require_name(config.run_id, "run_id")
            os.environ[ID_VARIABLE] = config.run_id
        if resume not in (None, NEWEST):
            folder = named_run(resume, experiments)
        elif config.run_id is not None:
            pass
        elif resume is not None and known_run_id() is None:
            folder = newest_run(experiments, config.experiment)
        elif checkpoint is not None:
            folder = run_of_checkpoint(checkpoint)
        if folder is None:
            experiment = require_name(str(config.experiment), "experiment")
            return experiments / experiment / require_name(new_run_id(), ID_VARIABLE)
        if self.subcommand == "fit":
            os.environ[ID_VARIABLE] = folder.name
        return folder

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """A trainer whose checkpoints cannot be torn and whose loggers write into the run's folder."""
        config = self.config_init[self.subcommand].trainer
        plugins = (
            config.plugins if isinstance(config.plugins, list) else [p for p in (config.plugins,) if p is not None]
        )
        plugins.append(AtomicCheckpoints())
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():  # torchrun may run within a job
            plugins.append(SLURMEnvironment(auto_requeue=False))  # which could wait for itself, see `RunCheckpoint`
        try:
            trainer = super().instantiate_trainer(default_root_dir=str(self.work_folder), plugins=plugins, **kwargs)
        except InputError:
            raise
        except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
            raise refused(error, vars(self.config[self.subcommand].trainer)) from error
        require_launcher(trainer)
        if isinstance(trainer.strategy, DDPStrategy) and trainer.strategy._timeout == default_pg_timeout:
            trainer.strategy._timeout = PATIENCE
        known = dict(flat(self.config[self.subcommand].as_dict()))
        for logger in trainer.loggers:
            if isinstance(logger, PlacedLogger):
                logger.place(Placement(self.work_folder, self.run_folder, self.command, known))
        return trainer

    def _set_seed(self) -> None:
        seed = self.config[self.subcommand].seed_everything
        if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
            raise InputError(f"seed_everything={seed}: expected 0 to {2**32 - 1}")
        super()._set_seed()

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; where wrong input keeps it from beginning, leave no folder behind."""
        made = [path for path in (self.work_folder, *self.work_folder.parents) if not path.exists()]
        try:
            if self.shared is not None:
                self._take_shared(self.shared)
            elif self.checkpoint is not None:
                require_weights(self.config[subcommand].ckpt_path, self.checkpoint, self.model)
            super()._run_subcommand(subcommand)
        except Exception as error:
            trained = self.trainer.global_step > (self.checkpoint or {}).get("global_step", 0)
            begun = trained or any(self.work_folder.rglob("*.ckpt"))
            mine = self.holds or subcommand != "fit"
            if made and mine and isinstance(explain(error), InputError) and not begun and rank() == 0:
                finish(1)  # W&B writes into the folder
                let_go()
                shutil.rmtree(self.work_folder, ignore_errors=True)
                for folder in made[1:]:
                    with suppress(OSError):
                        folder.rmdir()
            raise

    def _take_shared(self, path: str) -> None:
        """Put the weights of a shared network into the model, and what it knows of its images into the data."""
        tensors, net, data = read_tensors(path), self.model.net, self.datamodule
        require_weights(path, {"state_dict": tensors}, net)
        filled(net, tensors, path)
        names, normalization = images_of(read_metadata(path), path)
        if list(data.class_names) != names:
            raise InputError(
                f"{path}: was trained on the classes {', '.join(names)}, and these data have "
                f"{', '.join(data.class_names)}; give the data of those classes"
            )
        if data.normalization == normalization["kind"] == "channel" and "mean" in normalization:
            data.statistics = normalization["mean"], normalization["deviation"]

    def before_fit(self) -> None:
        """Let no other process train in this folder, and find the state to go on from."""
        config = self.config_init[self.subcommand]
        self.datamodule.require_whole_shares(self.trainer.world_size)
        require_monitors(self.trainer, self.model, self.datamodule)
        if config.trainer.fast_dev_run:
            return
        callback = self.trainer.checkpoint_callback
        folder = Path(getattr(callback, "dirpath", None) or self.work_folder / FOLDER)
        begins = config.ckpt_path is None and config.resume is None and not restarted()
        if rank() == 0:
            hold(self.work_folder)
            self.holds = True
            other = config.ckpt_path is not None and run_of_checkpoint(config.ckpt_path) != self.run_folder.absolute()
            if (begins or (other and not restarted())) and any(folder.glob("*.ckpt")):
                raise InputError(
                    f"the run {self.run_folder} exists; go on with it by --resume {self.run_folder}, or choose another "
                    "--run_id"
                )
            require_writable(folder, "--trainer.callbacks.dirpath")
        if begins or (config.ckpt_path is not None and not restarted()):
            return
        newest = newest_checkpoint(folder, self.model)
        config.ckpt_path = config.ckpt_path if newest is None else str(newest)
        rank_zero_info(
            f"no checkpoint in {folder} yet: this run begins at the beginning"
            if newest is None
            else f"going on from {newest}"
        )

    def after_fit(self) -> None:
        """Test what was trained, and say where it is."""
        checkpoints = self.trainer.checkpoint_callback
        path = ""
        if isinstance(checkpoints, RunCheckpoint):
            paths = (checkpoints.best_model_path, checkpoints.last_model_path)
            path = next((path for path in paths if path and Path(path).is_file()), "")
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


def without(words: list[str], name: str) -> list[str]:
    """Words without an option and its value.

    Example:
        >>> without(["--a=1", "--b", "2", "c"], "--b")
        ['--a=1', 'c']
    """
    return [
        word
        for number, word in enumerate(words)
        if word != name and not word.startswith(f"{name}=") and words[number - 1 : number] != [name]
    ]
