"""Classes that a file from elsewhere names: of known kinds alone, and without running any code of the file."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from capsule_lightning.components.names import modern_path
from capsule_lightning.components.slots import arguments
from capsule_lightning.errors import InputError, require
from capsule_lightning.shipped import PROGRAM

if TYPE_CHECKING:
    from torch import nn


MARK = "[|;,:&+]"
"""A mark between words, such as `ImageTableDataModule` takes for labels."""


def require_harmless(value: object, kinds: tuple[type, ...], is_text: bool = False) -> None:
    """Refuse all but numbers, words, a mark between words, and classes of some kinds.

    Args:
        value: of a configuration from elsewhere.
        kinds: what the classes that it names must derive from.
        is_text: whether it is given to an argument that takes text alone, in which a word may have dots, such as
            ``resnet18.a1_in1k``.

    Raises:
        InputError: the value holds anything that could be taken for code to call, or for a file to read.
    """
    if isinstance(value, dict):
        texts: set[str] = set()
        if "class_path" in value:
            require(set(value) <= {"class_path", "init_args"}, f"{value!r}: expected class_path and init_args")
            texts = _text_arguments(known_class(str(value["class_path"]), kinds, "a network or of its evaluation"))
        given = value.get("init_args")
        for key, each in (given if texts and isinstance(given, dict) else value).items():
            if key != "class_path":
                require_harmless(each, kinds, key in texts)
    elif isinstance(value, list):
        for each in value:
            require_harmless(each, kinds)
    elif isinstance(value, str):
        words = r"[\w -]+(\.[\w -]+)*|" if is_text else r"[\w -]*"
        require(re.fullmatch(f"{words}|{MARK}", value), f"{value!r} is neither a number nor a word")


def _text_arguments(cls: Any) -> set[str]:
    """Return the arguments of a module that take text and nothing else, and from which it opens no file."""
    from torch import nn

    if not issubclass(cls, nn.Module):
        return set()
    texts = {name for name, each in arguments(cls).items() if each.annotation in (str, str | None)}
    return texts - set(getattr(cls, "starts_from", ()))


def component(slot: object, kinds: tuple[type, ...]) -> Callable[..., nn.Module]:
    """Return a class of modules with its arguments, to be called with the shapes.

    The command line's parser, which also calls functions, and reads text for more of what it may call, has no part in
    this: a file from elsewhere must not run code.

    Args:
        slot: ``class_path`` and ``init_args``, some of which may be such slots again.
        kinds: what the classes must derive from.

    Raises:
        InputError: no such class, or anything else than a class of these kinds.
    """
    if not isinstance(slot, dict) or not {"class_path"} <= set(slot) <= {"class_path", "init_args"}:
        raise InputError(f"{slot!r}: expected class_path and init_args")
    found = known_class(str(slot["class_path"]), kinds, "a network")
    given = slot.get("init_args") or {}
    return partial(found, **{k: component(v, kinds) if isinstance(v, dict) else v for k, v in given.items()})


def known_class(name: str, kinds: tuple[type, ...], whole: str) -> Callable[..., Any]:
    """Return the class of a dotted name if it is of some kinds; nothing but modules of this package is imported.

    Args:
        name: as in a configuration.
        kinds: one of which it must derive from.
        whole: what it should be a part of, for the error.

    Raises:
        InputError: there is no such class here, or it is of another kind.
    """
    import sys

    module, _, attribute = modern_path(name).rpartition(".")
    if f"{module}.".startswith(f"{PROGRAM}."):
        with suppress(ImportError):
            import_module(module)
    found = getattr(sys.modules.get(module), attribute, None)
    require(
        found is not None,
        f"no class {name!r} here: it belongs neither to this package nor to a module that has been imported; if it is "
        f"your own, add --import {module or 'MODULE'}, or import it before load_network",
    )
    require(isinstance(found, type) and issubclass(found, kinds), f"{name!r} is not a part of {whole}")
    return typing.cast("Callable[..., Any]", found)
