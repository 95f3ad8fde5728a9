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


def require_network(command: str, path: str | None) -> None:
    """Raise if no checkpoint was given.

    Raises:
        InputError: ``path`` is None.
    """
    if path is None:
        raise InputError(f"{command} needs a trained network: --ckpt_path runs/.../checkpoints/last.ckpt")
