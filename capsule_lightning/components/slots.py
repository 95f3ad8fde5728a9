"""Slots of a config, the arguments of the classes that fill them, and how a class is found.

A slot is an argument whose type is a class, or a callable that returns one: ``net``, ``routing``, ``callbacks``. A
config names the class, by its short name or its dotted path, and gives the rest of its arguments.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from enum import Enum
from importlib import import_module
from pathlib import PurePath
from types import UnionType
from typing import Any, NamedTuple

from capsule_lightning.components.names import modern_path, short_names
from capsule_lightning.errors import InputError, first_line, nearest
from capsule_lightning.shipped import PROGRAM

LISTED = 24
"""How many classes an error lists; of more, it names the nearest alone."""


class Slot(NamedTuple):
    """A place in a config for a class.

    Attributes:
        bases: the class that fills it derives from one of these.
        given: how many of the first arguments of a class are given by whoever calls it, for each of ``bases``.
        several: the place takes a list of classes.
    """

    bases: tuple[type, ...]
    given: tuple[int, ...] = (0,)
    several: bool = False

    def given_to(self, cls: type) -> int:
        """Return how many of the first arguments of a class are given by whoever calls it."""
        return next(count for base, count in zip(self.bases, self.given, strict=True) if issubclass(cls, base))


class Argument(NamedTuple):
    """An argument of a class, as a config gives it.

    Attributes:
        annotation: its type; `typing.Any` if it states none.
        default: its default; `inspect.Parameter.empty` if it has none.
    """

    annotation: Any = Any
    default: Any = inspect.Parameter.empty

    @property
    def slot(self) -> Slot | None:
        """The slot that it is, or None if it takes plain values alone."""
        return slot_of(self.annotation)

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty

    def admits(self, kind: type) -> bool:
        """Return whether its type names a plain type, such as `str`, beside others."""
        return kind in (typing.get_args(self.annotation) or (self.annotation,))


def slot_of(annotation: Any) -> Slot | None:
    """Return the slot that a type makes of an argument, or None if it takes plain values alone.

    Example:
        >>> from collections.abc import Callable
        >>> slot_of(Callable[[int, int], Mapping] | None)
        Slot(bases=(<class 'collections.abc.Mapping'>,), given=(2,), several=False)
        >>> slot_of(int | None), slot_of(list[str])
        (None, None)
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return None
    if origin is typing.Annotated:
        return slot_of(parts[0])
    if origin in (typing.Union, UnionType):
        found = [slot for slot in map(slot_of, parts) if slot is not None]
        if not found:
            return None
        given = {base: count for slot in reversed(found) for base, count in zip(slot.bases, slot.given, strict=True)}
        bases = tuple(dict.fromkeys(base for slot in found for base in slot.bases))
        return Slot(bases, tuple(given[base] for base in bases), any(slot.several for slot in found))
    if origin is Callable and len(parts) < 2:
        return None  # any function
    if origin is Callable:
        made = slot_of(parts[1])
        count = len(parts[0]) if isinstance(parts[0], list) else 0
        return made and Slot(made.bases, (count,) * len(made.bases))
    if isinstance(origin, type) and issubclass(origin, Iterable) and parts:
        inner = slot_of(parts[0])
        return inner and inner._replace(several=True) if not issubclass(origin, Mapping | tuple) else None
    named = annotation is not Any and isinstance(annotation, type)  # since Python 3.11 `Any` is a type too
    if origin is None and named and not _is_plain(annotation):
        return Slot((annotation,))
    return None


def _is_plain(kind: type) -> bool:
    """Whether a type holds values that a config states as they are."""
    import torch

    plain = (PurePath, timedelta, Enum, torch.Tensor, torch.dtype, torch.device)
    return kind.__module__ == "builtins" or issubclass(kind, plain)


def arguments(cls: type, given: int = 0) -> dict[str, Argument]:
    """Return the arguments of a class's constructor by name; those of its base classes too if it passes them on.

    Args:
        cls: the class.
        given: how many of the first arguments to leave out, since whoever calls the class gives them.
    """
    found: dict[str, Argument] = {}
    for owner in cls.__mro__:
        init = owner.__dict__.get("__init__")
        if init is None or owner is object:
            continue
        try:
            hints = typing.get_type_hints(init)
        except (NameError, TypeError):  # names that exist for type checkers alone
            hints = {}
        parameters = list(inspect.signature(init).parameters.values())[1:]
        for each in parameters:
            if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
                found.setdefault(each.name, Argument(hints.get(each.name, Any), each.default))
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return dict(list(found.items())[given:])


def shared_arguments(one: type, other: type) -> set[str]:
    """Return the names of the arguments that the nearest common base of two data modules, or of two tasks, declares.

    They outlive a change of the class: ``batch_size`` stays when another data set is chosen. Nothing of a routing or of
    an optimizer does: `SGD` would learn at `Adam`'s rate.

    Example:
        >>> from torch.optim import SGD, Adam
        >>> shared_arguments(Adam, SGD)
        set()
    """
    from lightning import LightningDataModule, LightningModule

    if not issubclass(one, LightningDataModule | LightningModule):
        return set()
    base = next((c for c in one.__mro__ if issubclass(other, c) and "__init__" in c.__dict__ and c is not object), None)
    return set(inspect.signature(base).parameters) & set(inspect.signature(other).parameters) if base else set()


def path_of(cls: type) -> str:
    """Return the dotted path of a class, the shortest that leads to it.

    Example:
        >>> from torch.optim import Adam
        >>> path_of(Adam)
        'torch.optim.Adam'
    """
    parts = cls.__module__.split(".")
    for end in range(1, len(parts)):
        module = ".".join(parts[:end])
        if getattr(import_module(module), "__dict__", {}).get(cls.__name__) is cls:
            return f"{module}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def find_class(name: str, slot: Slot) -> type:
    """Return the class of a short name or a dotted path, if it fits a slot.

    A dotted path is imported, as Python finds it. A short name is one of the package's classes, or one that has been
    imported.

    Raises:
        InputError: there is no such class, or it does not fit; the nearest are named.
    """
    fitting = offered(slot)
    why = ""
    if "." in name:
        module, _, attribute = modern_path(name).rpartition(".")
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            found, why = None, f" ({first_line(error)})"
    else:
        found = fitting.get(name) or _package_class(name)
    if isinstance(found, type) and issubclass(found, slot.bases) and not inspect.isabstract(found):
        return found
    names = sorted(fitting)
    short = name.rpartition(".")[2]
    expected = f"; expected one of {', '.join(names)}" if len(names) <= LISTED else ""
    if found is not None:
        raise InputError(f"{name} is not a class for this slot{expected or nearest(short, names)}")
    likely = nearest(short, names, 0.8 if why else 0.5)  # a module that is not there makes another class unlikely
    raise InputError(f"no class {name!r}{why}{likely or expected}")


def names_class(text: str, slot: Slot) -> bool:
    """Return whether text is the name of a class for a slot, and not a word of another kind that it also takes."""
    try:
        find_class(text, slot)
    except InputError:
        return False
    return True


def offered(slot: Slot) -> dict[str, type]:
    """Return the classes that fit a slot and have been imported, by their short names."""
    return {cls.__name__: cls for base in reversed(slot.bases) for cls in subclasses(base) if _is_offered(cls)}


def _is_offered(cls: type) -> bool:
    return not (inspect.isabstract(cls) or cls.__name__.startswith("_"))


def _package_class(name: str) -> Any:
    module = short_names().get(name)
    return module and getattr(import_module(module), name, None)


def subclasses(cls: type) -> Iterator[type]:
    """Yield a class and all classes derived from it, as far as they are imported; the package's own come last."""
    yield cls
    derived: list[type] = cls.__subclasses__()
    for each in sorted(derived, key=lambda c: c.__module__.startswith(PROGRAM)):
        yield from subclasses(each)
