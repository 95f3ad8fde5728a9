"""The command line: light commands at once, training commands through Lightning's own.

Nothing heavy is imported here, so that help, version and the list of configs answer in a tenth of a second.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import ModuleType

from capsule_lightning import __version__
from capsule_lightning.cli import environment
from capsule_lightning.cli.commands import COMMANDS, TRAINING_COMMANDS
from capsule_lightning.errors import InputError, StoppedError, nearest
from capsule_lightning.loggers.wandb_service import import_before_torch
from capsule_lightning.runs.folders import see_working_folder
from capsule_lightning.runs.signals import (
    SIGNALS,
    Interrupted,
    end_with_parent,
    is_started_with_others,
    rank,
    requeue,
)
from capsule_lightning.shipped import PROGRAM, find_config

DRAWING = (*TRAINING_COMMANDS, "report")
"""Commands that draw pictures."""
FOLDS = ("--folds", "--fold")
"""Options of ``fit`` that ask for several runs, or for one of them."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: words of the command line; None for those of the process.

    Raises:
        SystemExit: with a short message, status 2 for wrong input and 1 for training that cannot continue; ``--debug``
            shows the traceback instead. See `Interrupted` for signals.
    """
    words = list(sys.argv[1:] if args is None else args)
    see_working_folder()
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        environment.say(environment.settle_process())
        _run(words)
    except (InputError, StoppedError) as error:
        if debug:
            raise
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, InputError) else 1) from None
    except Interrupted as left:
        if left.number == signal.SIGUSR1 and not requeue():
            raise SystemExit(128 + signal.SIGUSR1) from None
        raise
    except KeyboardInterrupt:
        with suppress(OSError):
            print(f"\n{PROGRAM}: interrupted", file=sys.stderr, flush=True)
        raise SystemExit(128 + signal.SIGINT) from None


def require_words(words: Sequence[str]) -> None:
    """Refuse words that are wrong whatever the libraries would say, before these are imported, which takes seconds.

    Raises:
        InputError: a word that is no option, an option without its value, or a config that is not there.
    """
    from capsule_lightning.cli.words import read_words

    for name in read_words(words).configs:
        if not name.startswith("{"):
            find_config(name)


def _run(words: list[str]) -> None:
    command = words[0] if words else "--help"
    if command in ("-h", "--help", "help"):
        from capsule_lightning.cli.help import help_text

        print(help_text())
    elif command == "--version":
        print(f"{PROGRAM} {__version__}")
    elif command in COMMANDS:
        if command in TRAINING_COMMANDS and ("-h" in words or "--help" in words):
            from capsule_lightning.cli.help import training_help

            print(training_help(command))
            return
        if command in TRAINING_COMMANDS:
            require_words(words)
        environment.say(environment.settle())
        in_folds = command == "fit" and any(word.partition("=")[0] in FOLDS for word in words)
        if in_folds and "--help_all" not in words:
            train_folds(words)
        else:
            run_command(command, words)
    else:
        raise InputError(
            f"no command {command!r}; expected one of {', '.join(COMMANDS)}{nearest(command, [*COMMANDS])}"
        )


def train_folds(words: Sequence[str]) -> None:
    """Run ``fit --folds N``: all folds, or the one of ``--fold K``."""
    from capsule_lightning.cli import folds

    plan = folds.read_plan(words)
    if "--print_config" in words:
        run_command("fit", folds.words_of_one(plan))
    elif plan.fold is None:
        folds.train_all(plan)
    elif not folds.is_done(plan):
        training = prepared("fit", words)
        with folds.recorded(plan):
            training.run(folds.words_of_one(plan))


def run_command(command: str, words: Sequence[str]) -> None:
    """Import what a command needs, and run it."""
    prepared(command, words).run(words)


def prepared(command: str, words: Sequence[str]) -> ModuleType:
    """Return the module of a command, imported once signals and pictures are settled."""
    if command in TRAINING_COMMANDS:
        # also while the libraries are imported, which may take a minute on a cluster
        SIGNALS.leave_at_once()
        if is_started_with_others(os.environ):
            end_with_parent()
    trains = command == "fit" and not {"--print_config", "--help_all"} & set(words)
    if trains and os.environ.get("WANDB_MODE") != "disabled" and rank() == 0:
        import_before_torch()
    if command in DRAWING:
        environment.say(environment.settle_pictures())
    return _import(f"{__name__}.{COMMANDS[command].module}")


def _import(name: str) -> ModuleType:
    """Import a module without looking for garbage: the libraries make a million objects, all of which stay.

    Python would look through all of them several times while they are made, and again and again in training.
    """
    if name in sys.modules:
        return sys.modules[name]
    looks = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        if looks:
            gc.enable()
