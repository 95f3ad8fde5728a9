"""The command line: light commands at once, training commands through Lightning's own.

Nothing heavy is imported here, so that help, version and the list of configs answer in a tenth of a second.
"""

from __future__ import annotations

import argparse
import difflib
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from capsule_lightning import __version__
from capsule_lightning.errors import InputError, StoppedError
from capsule_lightning.interruption import SIGNALS, Interrupted, requeue

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
    "export": "write a trained network to one file to share: .safetensors or .onnx",
    "report": "one page about a trained network: numbers, pictures, and sliders that move its capsules",
    "compare": "mean and spread of finished runs by what differs in them, and a test of the best two; makes studies",
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
        SystemExit: with a short message, status 2 for wrong input and 1 for training that cannot go on; ``--debug``
            shows the traceback instead. Left on a signal, see `Interrupted`.
    """
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
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
        raise SystemExit(128 + signal.SIGINT) from None


def _run(words: list[str]) -> None:
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        print(help_text())
    elif command == "--version":
        print(f"{PROGRAM} {__version__}")
    elif command == "configs":
        if len(words) > 1:
            raise InputError(f"configs: {words[1]!r} is too much; the command takes no option")
        print("\n".join(config_names()))
    elif command == "prepare":
        prepare(words[1:])
    elif command == "export":
        export(words[1:])
    elif command == "report":
        report(words[1:])
    elif command == "compare":
        compare(words[1:])
    elif command in TRAINING_COMMANDS:
        if "-h" in words or "--help" in words:
            print(training_help(command))
            return
        SIGNALS.leave_at_once()  # also while the libraries are imported, which may take a minute on a cluster
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
  python -m {PROGRAM} predict --ckpt_path runs/mnist/ID/checkpoints/last.ckpt --data.images photos/
  python -m {PROGRAM} export --ckpt_path runs/mnist/ID/checkpoints/last.ckpt --output mnist.onnx
  python -m {PROGRAM} report --ckpt_path runs/mnist/ID/checkpoints/last.ckpt
  python -m {PROGRAM} compare --config studies/digits_routings.yaml"""


def training_help(command: str) -> str:
    """The options of a training command that one uses, on one screen."""
    choices = "\n".join(f"  {slot:<24}{', '.join(class_names(slot))}" for slot in SLOTS)
    return f"""usage: python -m {PROGRAM} {command} [--config NAME]... [--key.subkey VALUE]...

{TRAINING_COMMANDS[command]}

  --config NAME           a YAML file or a shipped config ({PROGRAM} configs); may be repeated, later ones win
  --print_config          show the resolved configuration and stop
  --ckpt_path FILE        checkpoint to resume or to measure; its run's configuration is taken along. To measure also
                          a .safetensors file of export, or the name of a shipped one: efficient_capsnet_mnist
  --resume [RUN]          fit: go on with the newest good checkpoint of a run (its folder or id; else the newest run)
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
    """The shipped configs, as ``--config`` takes them; sweeps are W&B's."""
    names = (path.relative_to(CONFIG_DIR) for path in CONFIG_DIR.rglob("*.yaml"))
    return sorted(name.as_posix() for name in names if name.parts[0] != "sweeps")


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
    here = ", which is a folder," if Path(name).expanduser().is_dir() else " here"
    raise InputError(
        f"no config {name!r}{here} or among the shipped ones{nearest(name, config_names())}; expected a YAML file, or "
        f"a name that `{PROGRAM} configs` lists"
    )


def nearest(word: str, words: Sequence[str]) -> str:
    """``; did you mean 'x'?`` for the nearest of some words, or nothing."""
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


class LightParser(argparse.ArgumentParser):
    """The options of a light command; what is wrong with them becomes an `InputError` of one line.

    Args:
        command: its name.
        epilog: below the options, as it stands.
    """

    def __init__(self, command: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"{PROGRAM} {command}",
            description=f"{LIGHT_COMMANDS[command]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            exit_on_error=False,
        )
        self._command = command

    def options(self, words: Sequence[str]) -> argparse.Namespace:
        """What words say.

        Raises:
            InputError: an option that is not there, a value that is missing or too much.
        """
        try:
            found, unknown = self.parse_known_intermixed_args(words)
        except argparse.ArgumentError as error:
            raise InputError(f"{self._command}: {error}") from error
        if unknown:
            known = [action.option_strings[-1] for action in self._actions[1:] if action.option_strings]
            raise InputError(
                f"{self._command}: no option {unknown[0]!r}; expected {', '.join(known)}{nearest(unknown[0], known)}"
            )
        return found


def prepare(words: list[str]) -> None:
    """``prepare NAME [--root FOLDER]``: fetch and decode a data set, so that training needs no network."""
    parser = LightParser("prepare")
    parser.add_argument("name", nargs="?", help="of the data set, such as mnist")
    parser.add_argument("--root", help="folder of the data; else $CAPSULE_LIGHTNING_DATA, else data/")
    options = parser.options(words)

    from capsule_lightning.data.named import NamedDataModule
    from capsule_lightning.training_cli import import_components

    import_components()
    known = {c.name: c for c in NamedDataModule.__subclasses__()}
    if options.name not in known:
        names = sorted(known)
        what = "prepare needs the name of a data set" if options.name is None else f"no data set {options.name!r}"
        raise InputError(f"{what}; expected one of {', '.join(names)}{nearest(options.name or '', names)}")
    folder = known[options.name](root=options.root).write_prepared()
    print(f"{options.name} is ready: {folder}")


def export(words: list[str]) -> None:
    """``export --ckpt_path FILE [--output FILE] [--overwrite]``: write a trained network to a file of its own."""
    parser = LightParser(
        "export", "in Python:\n  from capsule_lightning.export import load_network\n  net = load_network(FILE)"
    )
    parser.add_argument(
        "--ckpt_path",
        metavar="FILE",
        help="checkpoint of a run, such as runs/.../last.ckpt; or a shared network, to be written as .onnx",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="ends in .safetensors (default: beside the checkpoint), weights and what rebuilds the network here; or in "
        '.onnx, which other programs run (pip install "capsule_lightning[onnx]")',
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.add_argument("--half", action="store_true", help="weights in float16, half the size; for .safetensors")
    options = parser.options(words)
    require_network("export", options.ckpt_path)

    from capsule_lightning.export import export as write

    done = write(options.ckpt_path, options.output, options.overwrite, options.half)
    print(f"wrote {done.path}: {done.parameters:,} parameters, {done.size / 1e6:.1f} MB")
    if done.unknown is not None:
        print(f"{PROGRAM}: the file does not say {done.unknown}", file=sys.stderr)


def compare(words: list[str]) -> None:
    """``compare [FOLDER...] [--config STUDY]``: which group of runs is better, and how sure that is."""
    from capsule_lightning.comparison.command import command

    command(words)


def report(words: list[str]) -> None:
    """``report --ckpt_path FILE [--output FILE.html] [--data.root FOLDER] [--images FOLDER] [--overwrite]``."""
    parser = LightParser("report")
    parser.add_argument(
        "--ckpt_path",
        metavar="FILE",
        help="checkpoint of a run, such as runs/.../last.ckpt; or a shared network: a .safetensors file of export, or "
        "the name of one that comes with the package, such as efficient_capsnet_mnist",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="ends in .html (default: report.html in the run's folder, or NAME.html here for a shared network); the "
        "probe's numbers lie beside it as CSV",
    )
    parser.add_argument("--data.root", dest="root", metavar="FOLDER", help="of the data, where it has moved")
    parser.add_argument("--images", metavar="FOLDER", help="test images FOLDER/<class>/* in place of the data set's")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    options = parser.options(words)
    require_network("report", options.ckpt_path)

    from capsule_lightning.report import report as write

    done = write(
        options.ckpt_path, options.output, root=options.root, images=options.images, overwrite=options.overwrite
    )
    print(f"wrote {done.path}, {done.size / 1e6:.1f} MB, to open in a browser; the probe's numbers: {done.table}")


def require_network(command: str, path: str | None) -> None:
    """Refuse to go on without a trained network.

    Raises:
        InputError: none was given.
    """
    if path is None:
        raise InputError(f"{command} needs a trained network: --ckpt_path runs/.../checkpoints/last.ckpt")
