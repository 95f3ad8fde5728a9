"""Read plain values of a config as the type of their argument."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from capsule_lightning.cli.words import Text
from capsule_lightning.components.slots import Argument, slot_of
from capsule_lightning.errors import InputError
from capsule_lightning.runs.plain_yaml import parse_yaml


def typed_value(text: Text, argument: Argument, key: str) -> Any:
    """Return what was typed for a slot: null, true or false, a class by its name, or YAML."""
    if text in ("null", "None") and argument.admits(types.NoneType):
        return None
    if argument.admits(bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return yaml_value(text, key) if text.startswith(("{", "[")) else text


def yaml_value(text: str, key: str) -> Any:
    """Return what was typed, as YAML reads it."""
    return parse_yaml(f"value: {text}", f"--{key}")["value"]


def checked_value(value: Any, argument: Argument, key: str) -> Any:
    """Return a plain value as its argument's type has it.

    Raises:
        InputError: the value is of another type.
    """
    if argument.annotation is Any:
        return yaml_value(value, key) if isinstance(value, Text) else value
    if {int, float} <= set(_kinds(argument.annotation)) and re.fullmatch(r"[+-]?\d+", str(value)):
        return int(value)  # 2 batches are not 2.0 of them; typing may give the two types in either order
    parser = _parser_of(argument.annotation)
    try:
        if isinstance(value, Text):
            found = parser.parse_args([f"--value={value}"]).value
        else:
            found = parser.parse_object({"value": value}).value
    except (ArgumentError, TypeError, ValueError) as error:
        raise InputError(f"{key}: got {value}, expected {in_words(argument.annotation)}") from error
    if isinstance(found, tuple | list):
        return list(found)
    return found if isinstance(found, bool | int | float | str | dict | None) else _plain(value)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value


@cache
def _parser_of(annotation: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=annotation)
    return parser


def in_words(annotation: Any) -> str:
    """Return what a type takes, in words.

    Example:
        >>> in_words(float), in_words(Literal["a", "b"] | None), in_words(list[int])
        ('a number', 'one of a, b', 'a list, such as [1,2]')
        >>> in_words(list[Literal["a", "b"]])
        'a list of some of a, b'
    """
    found: list[str] = []
    choices: list[str] = []
    for kind in _kinds(annotation):
        origin = typing.get_origin(kind)
        if origin is Literal:
            choices += [str(choice) for choice in typing.get_args(kind)]
        elif kind in _NAMES:
            found.append(_NAMES[kind])
        elif slot_of(kind) or typing.get_origin(kind):
            listed = origin or kind
            is_list = isinstance(listed, type) and issubclass(listed, Sequence)
            found.append(_list_in_words(kind) if is_list else "a class by its name")
    if choices:
        found.append(f"one of {', '.join(dict.fromkeys(choices))}")
    return " or ".join(dict.fromkeys(found)) or "null"


def _list_in_words(annotation: Any) -> str:
    members = next(iter(typing.get_args(annotation)), None)
    if typing.get_origin(members) is not Literal:
        return "a list, such as [1,2]"
    return f"a list of some of {', '.join(map(str, typing.get_args(members)))}"


def _kinds(annotation: Any) -> Iterator[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _kinds(part)
    else:
        yield annotation


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
