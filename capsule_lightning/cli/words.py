"""The words of a training command, taken apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from capsule_lightning.cli.options import options_of
from capsule_lightning.errors import InputError, nearest, require

CHOOSES_DATA = ("--config", "-c", "--data", "--data.class_path")
"""Options that say what to train on; without one of them it is the digits."""
FLAGS = ("print_config", "help", "help_all")
"""Options that take no value and show something in place of a run."""
APART = ("config", "import", *FLAGS)
"""Options that no config holds."""
SEVERAL = ("data.images", "without")
"""Options that take all words up to the next option, and may be given more than once."""
MEASURING = ("validate", "test", "predict")
"""Commands whose first word may be the network, without ``--ckpt_path``."""


class Text(str):
    """What was typed on the command line: its type is that of the option it is given to."""


class Words(NamedTuple):
    """The words of a training command, taken apart.

    Attributes:
        command: such as ``fit``.
        configs: the values of ``--config``, in their order.
        options: key and text of each option, in their order.
        flags: those of `FLAGS` that were given.
        imports: the values of ``--import``, modules of one's own.
        help_of: the slot and the class of ``--model.net.routing.help EMRouting``, the class empty if it was not given.
    """

    command: str
    configs: list[str]
    options: list[tuple[str, str]]
    flags: set[str]
    imports: list[str]
    help_of: tuple[str, str] | None = None

    def option(self, key: str) -> str | None:
        """Return the text that an option was given last, or None."""
        return next((text for name, text in reversed(self.options) if name == key), None)

    @property
    def chooses_data(self) -> bool:
        """Whether they say what to train on."""
        return bool(self.configs) or any(f"--{key}" in CHOOSES_DATA for key, _ in self.options)


def read_words(words: Sequence[str]) -> Words:
    """Take the words of a training command apart.

    Args:
        words: the command and its options, each as ``--key value`` or ``--key=value``. A command that measures may
            have the network as its first word.

    Raises:
        InputError: a word that is neither an option nor the value of one, or an option without its value.

    Example:
        >>> read_words(["fit", "--config", "mnist", "--data.batch_size=64"]).options
        [('data.batch_size', '64')]
    """
    command, *rest = words
    bare = {name: option.bare for name, option in options_of(command).items() if option.bare is not None}
    configs, options, flags, imports, help_of = [], [], set(), [], None
    several: dict[str, list[str]] = {}
    if command in MEASURING and rest and not rest[0].startswith("-") and "=" not in rest[0]:
        options.append(("ckpt_path", rest.pop(0)))
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") and word != "-c":
            meant = f"did you mean --{word}? " if "." in word or "=" in word else ""
            raise InputError(
                f"unrecognized arguments: {word}; {meant}An option begins with two hyphens, such as --config mnist"
            )
        key, equals, value = word.removeprefix("--").partition("=")
        if key in FLAGS:
            require(not equals, f"--{key}={value}: --{key} takes no value")
            flags.add(key)
            continue
        follows = bool(rest) and _is_value(rest[0])
        if not equals and follows:
            value = rest.pop(0)
        elif not equals and key.endswith(".help"):
            value = ""
        elif not equals:
            require(key in bare, f"{word}: expected a value after it{nearest(key, FLAGS)}")
            value = bare[key]
        if key in SEVERAL:
            more = [] if equals else list(takewhile(_is_value, rest))
            rest = rest[len(more) :]
            several.setdefault(key, []).extend((value, *more))
        elif key in ("config", "-c"):
            configs.append(value)
        elif key == "import":
            imports.append(value)
        elif key.endswith(".help"):
            help_of = (key.removesuffix(".help"), value)
        else:
            options.append((key, value))
    options += [(key, values[0] if len(values) == 1 else json.dumps(values)) for key, values in several.items()]
    return Words(command, configs, options, flags, imports, help_of)


def _is_value(word: str) -> bool:
    """Return whether a word is the value of an option, and not an option itself."""
    return not word.startswith("--") and word != "-c"
