"""The command line: light commands at once, training commands through Lightning's own.

Nothing heavy is imported here, so that help, version and the list of configs answer in a tenth of a second.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from capsule_lightning import __version__
from capsule_lightning.errors import InputError

PROGRAM = "capsule_lightning"
TRAINING_COMMANDS = {
    "fit": "train, then test the best checkpoint",
    "validate": "measure a checkpoint on the validation images",
    "test": "measure a checkpoint on the test images",
    "predict": "write the predictions of a checkpoint for test images or a folder of images",
}
LIGHT_COMMANDS = {
    "prepare": "download and decode a data set, for machines without a network",
    "configs": "list the configurations that --config finds by name",
}
#: What a config fills with a class: the folder of the classes, and what they derive from.
SLOTS = {
    "--data": ("data", "ImageDataModule", "NamedDataModule"),
    "--data.augmentation": ("data", "Augmentation"),
    "--model.net": ("models", "CapsuleNet"),
    "--model.net.encoder": ("encoders", "Encoder", "MapEncoder"),
    "--model.net.routing": ("routing", "Routing", "MatrixRouting"),
    "--model.net.decoder": ("decoders", "Decoder"),
    "--model.loss": ("losses", "ClassificationLoss"),
    "--model.lr_scheduler": ("", "Schedule"),
}

_PACKAGE = Path(__file__).parent
#: The shipped configs: inside the package once installed, beside it in a checkout.
CONFIG_DIR = next((f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir()), _PACKAGE)


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: words of the command line; those of the process where None.

    Raises:
        SystemExit: with status 2 and a short message for wrong input; ``--debug`` shows the traceback instead.
    """
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        _run(words)
    except InputError as error:
        if debug:
            raise
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _run(words: list[str]) -> None:
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        print(help_text())
    elif command == "--version":
        print(f"{PROGRAM} {__version__}")
    elif command == "configs":
        print("\n".join(config_names()))
    elif command == "prepare":
        prepare(words[1:])
    elif command in TRAINING_COMMANDS:
        if "-h" in words or "--help" in words:
            print(training_help(command))
            return
        from capsule_lightning.training_cli import run

        run(["--help" if word == "--help_all" else word for word in words])
    else:
        commands = (*TRAINING_COMMANDS, *LIGHT_COMMANDS)
        raise InputError(f"no command {command!r}; expected one of {', '.join(commands)}{nearest(command, commands)}")


def help_text() -> str:
    """What ``--help`` prints."""
    commands = "\n".join(f"  {name:<10}{what}" for name, what in {**TRAINING_COMMANDS, **LIGHT_COMMANDS}.items())
    return f"""usage: python -m {PROGRAM} COMMAND [--config NAME]... [--key.subkey VALUE]...

Capsule-network experiments in PyTorch Lightning.

commands:
{commands}

  COMMAND --help      the options of a command; --help_all for every last one
  --version           the version
  --debug             show the traceback of an error

examples:
  python -m {PROGRAM} fit                                     train on the embedded digits
  python -m {PROGRAM} fit --config mnist.yaml                 the paper's network on MNIST
  python -m {PROGRAM} fit --config mnist.yaml --model.net.routing UniformRouting
  python -m {PROGRAM} test --ckpt_path runs/mnist/ID/checkpoints/last.ckpt
  python -m {PROGRAM} predict --ckpt_path runs/mnist/ID/checkpoints/last.ckpt --data.images photos/"""


def training_help(command: str) -> str:
    """The options of a training command that one uses, on one screen."""
    choices = "\n".join(f"  {slot:<24}{', '.join(class_names(slot))}" for slot in SLOTS)
    return f"""usage: python -m {PROGRAM} {command} [--config NAME]... [--key.subkey VALUE]...

{TRAINING_COMMANDS[command]}

  --config NAME           a YAML file or a shipped config ({PROGRAM} configs); may be repeated, later ones win
  --print_config          show the resolved configuration and stop
  --ckpt_path FILE        checkpoint to resume or to measure; its run's configuration is taken along
  --runs FOLDER           where runs are kept: FOLDER/<experiment>/<run id>   (default: runs)
  --experiment NAME       runs that belong together
  --seed_everything N     (default: 0)
  --test_after_fit BOOL   end fit with a test of its result   (default: true)

  --data.root FOLDER      of the data   (default: $CAPSULE_LIGHTNING_DATA, else data)
  --data.batch_size N     of all processes together
  --data.val_size N       images, or fraction, held out of the training set; 0 to train on all
  --data.images PATH      predict: a folder of images, or one image

  --trainer.max_epochs N  --trainer.precision 32-true|bf16-mixed|16-mixed  --trainer.gradient_clip_val X
  --trainer.devices N     --trainer.strategy ddp     --trainer.accelerator cpu|gpu|auto

by class name, each with its own options (--model.net.routing.iterations 2; --model.net.routing.help NAME lists them):
{choices}

  {command} --help_all    every option"""


def class_names(slot: str) -> list[str]:
    """The classes that the package offers for a slot, found without importing it."""
    folder, *bases = SLOTS[slot]
    pattern = re.compile(rf"^class (\w+)\((?:{'|'.join(bases)})\):", re.M)
    modules = (path for path in sorted((_PACKAGE / folder).glob("*.py")) if path.stem not in ("base", "named"))
    return [name for module in modules for name in pattern.findall(module.read_text())]


def config_names() -> list[str]:
    """The shipped configs, as ``--config`` takes them."""
    return sorted(path.relative_to(CONFIG_DIR).as_posix() for path in CONFIG_DIR.rglob("*.yaml"))


def find_config(name: str) -> str:
    """The user's file of that name, or else the shipped one.

    Args:
        name: a path, or the name of a shipped config with or without ``.yaml``.

    Raises:
        InputError: neither exists; the nearest names are given.

    Example:
        >>> Path(find_config("mnist")).name
        'mnist.yaml'
    """
    if Path(name).expanduser().is_file():
        return str(Path(name).expanduser())
    for shipped in (CONFIG_DIR / name, CONFIG_DIR / f"{name}.yaml"):
        if shipped.is_file():
            return str(shipped)
    names = config_names()
    raise InputError(
        f"no config {name!r} here or among the shipped ones{nearest(name, names)}; "
        f"`{PROGRAM} configs` lists them: {', '.join(names)}"
    )


def nearest(word: str, words: Sequence[str]) -> str:
    """``; did you mean 'x'?`` for the nearest of some words, or nothing."""
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def prepare(words: list[str]) -> None:
    """``prepare NAME [--root FOLDER]``: fetch and decode a data set, so that training needs no network."""
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} prepare", description=LIGHT_COMMANDS["prepare"])
    parser.add_argument("name", help="of the data set: mnist, fashion_mnist, cifar10, cifar100, svhn")
    parser.add_argument("--root", help="folder of the data; else $CAPSULE_LIGHTNING_DATA, else data/")
    options = parser.parse_args(words)

    from capsule_lightning.data.named import NamedDataModule
    from capsule_lightning.training_cli import import_components

    import_components()
    known = {c.name: c for c in NamedDataModule.__subclasses__()}
    if options.name not in known:
        names = sorted(known)
        raise InputError(
            f"no data set {options.name!r}; expected one of {', '.join(names)}{nearest(options.name, names)}"
        )
    folder = known[options.name](root=options.root).write_prepared()
    print(f"{options.name} is ready: {folder}")
