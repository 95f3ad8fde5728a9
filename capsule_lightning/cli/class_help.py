"""What ``--model.net.routing.help EMRouting`` prints: the options of a class, by the names that one types."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Mapping

import docstring_parser

from capsule_lightning.cli.values import in_words
from capsule_lightning.components.slots import Argument, arguments, find_class, offered, path_of
from capsule_lightning.errors import require
from capsule_lightning.shipped import PROGRAM

WIDTH = 100
INDENT = " " * 8


def class_help(command: str, key: str, name: str, argument: Argument) -> str:
    """Return what a class is and its options.

    Args:
        command: such as ``fit``.
        key: of the slot, such as ``model.net.routing``.
        name: of the class; empty for that which the slot has by default.
        argument: the slot, as an argument.

    Raises:
        InputError: the key is no slot, or there is no such class for it.
    """
    slot = argument.slot
    require(slot is not None, f"{key}: takes plain values, {in_words(argument.annotation)}, and has no options")
    assert slot is not None
    if not name:
        return "\n".join(textwrap.wrap(f"--{key} NAME: expected one of {', '.join(sorted(offered(slot)))}", WIDTH))
    cls = find_class(name, slot)
    about = docstring_parser.parse(inspect.getdoc(cls) or "")
    lines = [f"{PROGRAM} {command} --{key} {cls.__name__}    ({path_of(cls)})", "", about.short_description or "", ""]
    texts = argument_texts(cls)
    for each, given in arguments(cls, slot.given_to(cls)).items():
        default = "" if given.required else f"   (default: {shown(given.default)})"
        lines.append(f"  --{key}.{each}  {in_words(given.annotation)}{default}")
        if each in texts:
            lines += textwrap.wrap(texts[each], WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    return "\n".join(lines)


def argument_texts(cls: type) -> Mapping[str, str]:
    """Return what the docstrings of a class and of its base classes say of each argument, the class itself first.

    Example:
        >>> from capsule_lightning.losses.margin import MarginLoss
        >>> argument_texts(MarginLoss)["m_plus"]
        'length above which a present class costs nothing.'
    """
    found: dict[str, str] = {}
    for owner in cls.__mro__:
        for docstring in (owner.__doc__, getattr(owner.__dict__.get("__init__"), "__doc__", None)):
            for name, text in _texts(docstring).items():
                elsewhere = re.match(r"see `(\w+)`", text)
                if elsewhere:  # a function of the same module, or a base class, whose turn comes
                    function = getattr(sys.modules[owner.__module__], elsewhere[1], None)
                    text = _texts(function.__doc__).get(name, "") if inspect.isfunction(function) else ""
                if text:
                    found.setdefault(name, text)
    return found


def _texts(docstring: str | None) -> dict[str, str]:
    """What a docstring says of each argument."""
    parameters = docstring_parser.parse(inspect.cleandoc(docstring or "")).params
    return {
        name: " ".join((parameter.description or "").split())
        for parameter in parameters
        for name in re.split(r",\s*", parameter.arg_name)
    }


def shown(default: object) -> str:
    """Return a default as one would type it.

    Example:
        >>> shown(None), shown(True), shown(0.5), shown(int)
        ('null', 'true', '0.5', 'int')
    """
    if inspect.isclass(default):
        return default.__name__
    if default is None or isinstance(default, bool):
        return "null" if default is None else str(default).lower()
    return str(default)
