"""Whether commands of `fit` would be refused, before any of them is run."""

from __future__ import annotations

from collections.abc import Sequence

from capsule_lightning.errors import InputError


def check(commands: Sequence[Sequence[str]]) -> str | None:
    """Resolve commands without running them.

    Args:
        commands: the words of each.

    Returns:
        Why the first that cannot be resolved is refused; None if all can.
    """
    from capsule_lightning.cli.configs import resolve

    for words in commands:
        try:
            resolve(words)
        except InputError as error:
            return str(error)
    return None
