"""Parse the options of the commands that need no training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from capsule_lightning.cli.commands import COMMANDS
from capsule_lightning.errors import InputError, nearest
from capsule_lightning.shipped import PROGRAM


class LightParser(argparse.ArgumentParser):
    """A parser of a light command's options, which answers a mistake by an `InputError` of one line.

    Args:
        command: name of the command.
        epilog: text below the options, printed as it is.
    """

    def __init__(self, command: str, epilog: str = "") -> None:
        self._command, self._known = command, list[str]()
        super().__init__(
            prog=f"{PROGRAM} {command}",
            description=f"{COMMANDS[command].summary}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            exit_on_error=False,
        )

    @override
    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        action = super().add_argument(*names, **settings)
        self._known += [name for name in action.option_strings[-1:] if name != "--help"]
        return action

    def options(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the options.

        Raises:
            InputError: there is no such option, or a value is missing or too much.
        """
        try:
            found, unknown = self.parse_known_intermixed_args(words)
        except argparse.ArgumentError as error:
            raise InputError(f"{self._command}: {error}") from error
        if unknown:
            expected = f"expected {', '.join(self._known)}{nearest(unknown[0], self._known)}"
            raise InputError(f"{self._command}: no option {unknown[0]!r}; {expected}")
        return found


def add_network(parser: LightParser) -> None:
    """Add the options that say which network a command is about."""
    parser.add_argument(
        "network",
        nargs="?",
        help="the network: a checkpoint, a run's folder or id, best or last of the newest run, a .safetensors file of "
        "export, or the name of one that comes with the package, such as efficient_capsnet_mnist (default: the best "
        "state of the newest run)",
    )
    parser.add_argument("--ckpt_path", metavar="NETWORK", help="the same")
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="module of your own that defines classes of the network; those that a run's configuration names are found "
        "by themselves",
    )
    parser.add_argument("--runs", metavar="FOLDER", default="runs", help="folder of the runs (default: runs)")


def network_chosen(options: argparse.Namespace) -> str:
    """Return the file that a light command is about, or the name of a shipped network, and import what it needs.

    Raises:
        InputError: two networks are given, or there is none.
    """
    from capsule_lightning.components.own import import_modules
    from capsule_lightning.runs.named import checkpoint_named
    from capsule_lightning.runs.results import from_here
    from capsule_lightning.sharing.network_file import is_shared

    if options.network is not None and options.ckpt_path is not None:
        raise InputError(f"{options.network}, --ckpt_path {options.ckpt_path}: are two networks; give one of them")
    name = options.network or options.ckpt_path
    import_modules(options.modules)
    if name is not None and is_shared(name):
        return str(name)
    path = from_here(checkpoint_named(name, options.runs))
    if path != name:
        print(f"network: {path}")
    return path
