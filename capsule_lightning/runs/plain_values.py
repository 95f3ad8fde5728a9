"""What a checkpoint states of how its objects were made: plain values, which are read back without running any code."""

from __future__ import annotations

import sys
import typing
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from importlib import import_module
from pathlib import PurePath
from types import FunctionType
from typing import Any


def plain(value: Any) -> Any:
    """Return a value as numbers, words, lists and mappings; a class with its arguments as a slot of a config.

    Args:
        value: plain already, or a class, a `functools.partial` of a class, or a function of a module.

    Raises:
        TypeError: plain values cannot state it, such as a function without a name.

    Example:
        >>> from collections import Counter
        >>> plain({"size": (2, 3), "make": partial(Counter, a=1)})
        {'size': [2, 3], 'make': {'class_path': 'collections.Counter', 'init_args': {'a': 1}}}
    """
    for kind in (bool, int, float, str):  # bool first, which is an int; numbers of other libraries are no plain ones
        if isinstance(value, kind):
            return value if isinstance(value, bool) else kind(value)
    if value is None:
        return None
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(each) for each in value]
    if isinstance(value, type):
        return {"class_path": path_of(value)}
    if isinstance(value, partial) and isinstance(value.func, type) and not value.args:
        return {"class_path": path_of(value.func), "init_args": plain(value.keywords)}
    if isinstance(value, FunctionType):
        return path_of(value)
    raise TypeError(f"{value!r} cannot be stated by plain values")


def stated(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments that plain values can state.

    Example:
        >>> stated({"rate": 0.1, "make": lambda: 0})
        {'rate': 0.1}
    """
    found = {}
    for name, value in arguments.items():
        try:
            found[name] = plain(value)
        except TypeError:
            continue
    return found


def names_classes(value: Any) -> bool:
    """Return whether plain values hold the slot of a class.

    Example:
        >>> names_classes([{"class_path": "collections.Counter"}]), names_classes({"rate": 0.1})
        (True, False)
    """
    if isinstance(value, Mapping):
        return "class_path" in value or any(map(names_classes, value.values()))
    return isinstance(value, list) and any(map(names_classes, value))


def without_sources(value: Any) -> Any:
    """Return plain values in which no class says where its initial weights are from: they are stored beside these.

    Args:
        value: plain values; of each slot in them, the arguments that its class lists in ``starts_from`` become null.

    Example:
        >>> without_sources({"class_path": "collections.Counter", "init_args": {"a": 1}})
        {'class_path': 'collections.Counter', 'init_args': {'a': 1}}
    """
    if isinstance(value, list):
        return [without_sources(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: without_sources(each) for key, each in value.items()}
    module, _, name = str(found.get("class_path", "")).rpartition(".")
    sources = getattr(getattr(sys.modules.get(module), name, None), "starts_from", ())
    given = found.get("init_args")
    if isinstance(given, dict):
        found["init_args"] = {key: None if key in sources else each for key, each in given.items()}
    return found


def path_of(made: type | FunctionType) -> str:
    """Return the dotted path that leads to a class or to a function.

    Raises:
        TypeError: none does, because it was made within a function.
    """
    module, names = made.__module__, made.__qualname__
    try:
        found: Any = reduce(getattr, names.split("."), typing.cast("Any", import_module(module)))
    except (ImportError, AttributeError):
        found = None
    if found is not made:
        raise TypeError(f"{names} is no name of the module {module}")
    return f"{module}.{names}"
