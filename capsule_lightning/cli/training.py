"""The training commands, from their words to the lines at the end."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from capsule_lightning.callbacks.checkpoint import RunCheckpoint
from capsule_lightning.callbacks.results import prints_result
from capsule_lightning.cli.class_help import class_help
from capsule_lightning.cli.closing import say_where
from capsule_lightning.cli.configs import argument_at, resolve
from capsule_lightning.cli.faults import as_user_error
from capsule_lightning.cli.lightning_cli import CapsuleCLI, place_loggers
from capsule_lightning.cli.measured import (
    base_of_network,
    for_predict,
    images_known,
    require_results,
    take_network,
    take_weights,
    with_network,
    with_pictures,
    with_texts,
    with_vocabulary,
)
from capsule_lightning.cli.options import OPTIONS
from capsule_lightning.cli.resuming import begin_from
from capsule_lightning.cli.trainer_checks import require_monitors, require_options, require_steps
from capsule_lightning.cli.words import Words, read_words
from capsule_lightning.components.names import import_components
from capsule_lightning.components.own import import_modules
from capsule_lightning.components.run_config import read_resumed_config, read_run_config
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.errors import InputError, require
from capsule_lightning.kernels.heap import keep_heap
from capsule_lightning.loggers.base import Placement
from capsule_lightning.loggers.wandb import finish
from capsule_lightning.runs.checkpoint_files import (
    FOLDER,
    LAST,
    PREVIOUS,
    TRAINING_STATE,
    VERSION,
    newest_checkpoint,
    require_checkpoint,
    require_weights,
)
from capsule_lightning.runs.choice import Choice, choose, config_of, require_new, run_below
from capsule_lightning.runs.folders import (
    ID_VARIABLE,
    NEWEST,
    expanded,
    flat,
    lock_run,
    require_writable,
    unlock_run,
)
from capsule_lightning.runs.plain_values import without_sources
from capsule_lightning.runs.plain_yaml import dump_yaml
from capsule_lightning.runs.signals import SIGNALS, Interrupted, rank
from capsule_lightning.sharing.network_file import evaluation_config, is_shared, require_source

QUIET = (
    "GPU available: False",
    "TPU available: False",
    "Trainer already configured",
    "litlogger",
    "`Trainer.fit` stopped: `max_",
    "Restoring states from the checkpoint path",
    "Loaded model weights from the checkpoint",
)
"""Parts of messages of Lightning that nobody can act on."""


def run(words: Sequence[str]) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        InputError: wrong input.
        StoppedError: training could not continue.
        SystemExit: the run was left on a signal, its state saved.
    """
    keep_heap()
    quieten()
    atexit.register(SIGNALS.ignore)  # an exception could not be raised from there
    inherited, exit_code = ID_VARIABLE in os.environ, 1
    try:
        import_components()
        given = read_words(words)
        import_modules(given.imports)
        if given.help_of is not None:
            show_help_of(given)
        elif "help_all" in given.flags:
            CapsuleCLI(["--help"], command=given.command)
        else:
            start = resolve_start(given)
            if "print_config" in given.flags:
                print(dump_yaml(start.config), end="")
            else:
                perform(start)
        exit_code = 0
    except Interrupted as signalled:
        SIGNALS.ignore()  # SLURM sends SIGTERM to a job that is put into the queue again
        exit_code = signalled.number
        raise
    except Exception as error:
        known = as_user_error(error)
        if known is None:
            raise
        raise known from error
    finally:
        finish(exit_code)
        unlock_run()
        if not inherited:
            os.environ.pop(ID_VARIABLE, None)


def quieten() -> None:
    """Silence messages of Lightning that nobody can act on."""
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # a resumed run's is
    warnings.filterwarnings("ignore", message=r"The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", message=r"The `srun` command is available")  # on the login nodes of clusters
    rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    rank_zero.addFilter(lambda record: not any(part in record.getMessage() for part in QUIET))


def show_help_of(given: Words) -> None:
    """Print the arguments of a class that fills a slot, for ``--model.net.routing.help EMRouting``."""
    assert given.help_of is not None
    key, name = given.help_of
    print(class_help(given.command, key, name, argument_at(given.command, key)))


# What is to be run.


@dataclass(frozen=True)
class Start:
    """A training command, resolved.

    Attributes:
        command: such as ``fit``.
        config: that states everything, see `resolve`.
        shared: the shared network that is measured, a file or a shipped one's name; None for a checkpoint or none.
    """

    command: str
    config: dict[str, Any]
    shared: str | None


def resolve_start(given: Words) -> Start:
    """Resolve the words of a training command over the configuration of the run or of the network that they are about.

    Raises:
        InputError: wrong input.
    """
    if given.command == "fit" and given.option("ckpt_path") == "last":
        rest = [(key, text) for key, text in given.options if key != "ckpt_path"]
        given = given._replace(options=[*rest, ("resume", NEWEST)])
    if given.command != "fit":
        given = with_network(given)
    checkpoint, shared = given.option("ckpt_path"), None
    base: Mapping[str, Any] | None = None
    if checkpoint is not None and is_shared(checkpoint):
        require(
            given.command != "fit",
            f"ckpt_path={checkpoint}: holds weights alone, and no state that training could continue from",
        )
        base, shared = evaluation_config(checkpoint), checkpoint
    else:
        options = {name: given.option(name) for name in OPTIONS}
        folder = run_below(options, given.chooses_data, os.environ)
        if folder is not None and config_of(folder) is not None:
            trusts = given.option("trust_run") not in (None, "false")
            base = read_resumed_config(folder, trusts) if given.command == "fit" else read_run_config(folder)
        elif checkpoint is not None and given.command != "fit":
            base = base_of_network(given, checkpoint)
    if checkpoint is not None:
        base = with_texts(given, with_pictures(given, base, checkpoint), checkpoint)
    config = resolve(given, base)
    if checkpoint is not None and given.command != "fit":
        config = with_vocabulary(config, checkpoint)
    if given.command == "predict":
        config = for_predict(config, given)
    begins_as = given.option("init_from")
    if begins_as is not None:
        require(
            given.command == "fit",
            f"init_from={begins_as}: is for fit; --ckpt_path names the network to {given.command}",
        )
        require(
            checkpoint is None,
            f"init_from={begins_as}, ckpt_path={checkpoint}: both name what to start from; give one of the two",
        )
    if given.command == "fit" and config["ckpt_path"] == "last":
        config |= {"ckpt_path": None, "resume": config["resume"] or NEWEST}
    return Start(given.command, config, shared)


def perform(start: Start) -> None:
    """Check what is asked for, choose the run's folder, make the trainer, and do it.

    Raises:
        InputError: wrong input; nothing has been changed by it.
        StoppedError: training could not continue.
    """
    command, config = start.command, start.config
    seed = config["seed_everything"]
    require(isinstance(seed, bool) or 0 <= seed < 2**32, f"seed_everything={seed}: expected 0 to {2**32 - 1}")
    if command == "fit":
        require_options(config["trainer"])
    path, checkpoint = config["ckpt_path"], None
    require(
        path is not None or command == "fit",
        f"{command} needs a trained network: --ckpt_path runs/.../checkpoints/last.ckpt",
    )
    if command == "predict":
        require_results(config)
    choice = choose(command, config, os.environ)
    if path is not None and start.shared is None:
        require_source(path)
        checkpoint = require_checkpoint(path, (VERSION, *TRAINING_STATE) if command == "fit" else (VERSION,))
    if command == "fit" or config_of(choice.folder) is None:
        os.environ[ID_VARIABLE] = choice.folder.name  # for the processes that this one starts
    folder = choice.folder if command == "fit" else choice.folder / command
    if config["trainer"]["default_root_dir"] is not None:
        folder = expanded(config["trainer"]["default_root_dir"], "--trainer.default_root_dir")
    if rank() == 0:
        require_writable(folder)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    untrained = command == "fit" and checkpoint is None and (choice.begins or not any(folder.rglob("*.ckpt")))
    cli = CapsuleCLI(
        parts_of(config, untrained),
        command=command,
        work_folder=folder,
        record=record_of(config),
        left_out=config["without"],
    )
    place_loggers(cli.trainer, Placement(folder, choice.folder, command, dict(flat(config))))
    held: list[Path] = []
    try:
        if command != "fit":
            take_network(path, checkpoint, cli.model, cli.datamodule)
        elif checkpoint is not None:
            require_weights(path, checkpoint, cli.model)
        elif config["init_from"] is not None and untrained:
            take_weights(config["init_from"], cli.model, config["runs"])
        if command == "fit":
            fit(cli, choice, config, folder, held)
        else:
            measure(cli, command, None if start.shared is not None else path)
    except Exception as error:
        trained = cli.trainer.global_step > (checkpoint or {}).get("global_step", 0)
        begun = trained or any(folder.rglob("*.ckpt"))
        mine = bool(held) or command != "fit"
        if made and mine and isinstance(as_user_error(error), InputError) and not begun and rank() == 0:
            remove_made(folder, made)
        raise


def remove_made(folder: Path, made: Sequence[Path]) -> None:
    """Remove the folders of a run that wrong input has kept from starting."""
    finish(1)  # W&B writes into the folder
    unlock_run()
    shutil.rmtree(folder, ignore_errors=True)
    for parent in made[1:]:
        with suppress(OSError):
            parent.rmdir()


def parts_of(config: Mapping[str, Any], untrained: bool) -> dict[str, Any]:
    """Return what Lightning makes objects of.

    Args:
        config: of the run.
        untrained: whether the network begins with its initial weights; those of a checkpoint need no source.
    """
    parts = {key: config[key] for key in ("seed_everything", "trainer", "model", "data")}
    return parts if untrained else {**parts, "model": without_sources(parts["model"])}


def record_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's ``config.yaml`` keeps: all but what concerns one start alone, so that it may start another run."""
    left_out = ("resume", "trust_run", *(() if config["without"] else ("without",)))
    return {key: value for key, value in config.items() if key not in left_out} | {"run_id": None, "ckpt_path": None}


# Training and measuring.


def fit(cli: CapsuleCLI, choice: Choice, config: Mapping[str, Any], folder: Path, held: list[Path]) -> None:
    """Train, and test the result.

    Args:
        cli: holds trainer, task and data.
        choice: the run.
        config: that states everything.
        folder: where the run writes.
        held: gets the folder when this process has locked it.

    Raises:
        InputError: the run exists, is being trained in, or has no checkpoint that can be used.
    """
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    data.require_whole_shares(trainer.world_size)
    require_monitors(trainer, task, data)
    require_steps(task)
    task.try_loss()
    path, loops = choice.checkpoint, trainer.fit_loop.state_dict()
    checkpoints = None
    if not config["trainer"]["fast_dev_run"]:
        checkpoints = Path(getattr(trainer.checkpoint_callback, "dirpath", None) or folder / FOLDER)
        if rank() == 0:
            lock_run(folder)
            held.append(folder)
            require_new(choice, checkpoints, os.environ)
            require_writable(checkpoints, "--trainer.callbacks.dirpath")
        if choice.seeks_newest:
            newest = newest_checkpoint(checkpoints, task, loops)
            path = path if newest is None else str(newest)
            rank_zero_info(
                f"no checkpoint in {checkpoints} yet: this run starts from the beginning"
                if newest is None
                else f"going on from {newest}"
            )
    start = begin_from(path, trainer, record_of(config), folder)
    if path is not None and isinstance(data, ImageDataModule):
        about = images_known(path)
        data.keep_classes(None if about is None else about.class_names)
    trainer.fit(task, datamodule=data, ckpt_path=path, weights_only=True)  # a checkpoint is values, and never code
    trained = trainer.global_step > start.step or start.is_done
    require(trained, "fit: not one step was trained; raise the limits of the trainer, or lower data.batch_size")
    best = best_checkpoint(trainer)
    if config["test_after_fit"]:
        own = prints_result(trainer)
        trainer.test(task, datamodule=data, ckpt_path=best or None, weights_only=True, verbose=not own)
    if checkpoints is not None and rank() == 0 and (checkpoints / LAST).is_file():
        (checkpoints / PREVIOUS).unlink(missing_ok=True)  # a finished run needs its last state once
    finish(0)  # what W&B prints at the end of a run comes before our last words
    if not config["trainer"]["fast_dev_run"]:
        say_where(trainer, best, folder, config["test_after_fit"])


def measure(cli: CapsuleCLI, command: str, checkpoint: str | None) -> None:
    """Validate, test or predict with a checkpoint, or with the weights as they are."""
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    if command == "predict":  # the callbacks write what is wanted
        trainer.predict(task, datamodule=data, ckpt_path=checkpoint, weights_only=True, return_predictions=False)
    else:
        own = prints_result(trainer)
        getattr(trainer, command)(task, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=not own)


def best_checkpoint(trainer: L.Trainer) -> str:
    """Return the best checkpoint of a run, or else its last; empty if it has none."""
    checkpoints = trainer.checkpoint_callback
    if not isinstance(checkpoints, RunCheckpoint):
        return ""
    paths = (checkpoints.best_model_path, checkpoints.last_model_path)
    return next((path for path in paths if path and Path(path).is_file()), "")
