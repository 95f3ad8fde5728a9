"""The slots of a config, the classes that fill them, and how a config becomes objects.

A slot is an argument whose type is a class, or a callable that returns one: ``net``, ``routing``, ``callbacks``. A
config names the class, by its short name or its dotted path, and gives the rest of its arguments.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from enum import Enum
from functools import cache, partial
from importlib import import_module
from pathlib import PurePath
from types import UnionType
from typing import TYPE_CHECKING, Any, NamedTuple

from capsule_lightning.errors import InputError, first_line, nearest, require
from capsule_lightning.shipped import PACKAGE, PROGRAM

if TYPE_CHECKING:
    from torch import nn

    from capsule_lightning.data.base import ImageDataModule
    from capsule_lightning.tasks.base import Task

# What a config fills with a class: the folder of the classes, and what they derive from.
SLOTS = {
    "--data": ("data", "ImageDataModule", "NamedDataModule"),
    "--data.augmentation": ("augmentations", "Augmentation"),
    "--model.net": ("models", "CapsuleNet"),
    "--model.net.encoder": ("encoders", "Encoder", "MapEncoder"),
    "--model.net.routing": ("routing", "Routing", "MatrixRouting"),
    "--model.net.decoder": ("decoders", "Decoder"),
    "--model.loss": ("losses", "ClassificationLoss"),
    "--model.lr_scheduler": ("", "Schedule"),
}
FOLDERS = (
    "augmentations",
    "callbacks",
    "data",
    "decoders",
    "encoders",
    "loggers",
    "losses",
    "models",
    "routing",
    "tasks",
)
"""The folders whose modules define a class that a config may name."""
FROM_DATA = ("in_shape", "num_classes")
"""Arguments of a task that its data state."""
OLD_NAMES = {"normalisation": "normalization"}
"""Names of arguments and of metadata in files that were written before the names changed."""
LISTED = 16
"""How many classes an error lists; of more, it names the nearest alone."""


# Names.


def class_names(slot: str) -> list[str]:
    """List the classes that the package offers for a slot, without importing them.

    Args:
        slot: a key of `SLOTS`.
    """
    folder, *bases = SLOTS[slot]
    pattern = re.compile(rf"^class (\w+)\((?:{'|'.join(bases)})\):", re.M)
    modules = (path for path in sorted((PACKAGE / folder).glob("*.py")) if path.stem not in ("base", "named"))
    return [name for module in modules for name in pattern.findall(module.read_text())]


@cache
def short_names() -> dict[str, str]:
    """Map the short name of every class of the package that a config may name to its module, without imports.

    Example:
        >>> short_names()["EMRouting"]
        'capsule_lightning.routing.em'
    """
    found: dict[str, str] = {}
    for folder in (*FOLDERS, ""):
        for path in sorted((PACKAGE / folder).glob("*.py")):
            module = ".".join(part for part in (PROGRAM, folder, path.stem) if part)
            found |= dict.fromkeys(re.findall(r"^class ([A-Z]\w*)", path.read_text(), re.M), module)
    return found


def modern_path(name: str) -> str:
    """Bring the dotted path of one of the package's classes up to date, if its module has moved since it was saved.

    Configs, checkpoints and shared networks name classes by their paths. Short names are unique in the package, so a
    path that leads nowhere any more is looked up by its last part.

    Example:
        >>> modern_path("capsule_lightning.data.augmentation.Affine")
        'capsule_lightning.augmentations.geometry.Affine'
    """
    module, _, short = name.rpartition(".")
    known = short_names().get(short)
    return f"{known}.{short}" if known and module.split(".")[0] == PROGRAM else name


def modernized(config: Any) -> Any:
    """Bring the class paths and the names of a saved configuration up to date, see `modern_path` and `OLD_NAMES`.

    Args:
        config: mappings, lists and plain values, as YAML or JSON holds them.
    """
    if isinstance(config, dict):
        return {
            OLD_NAMES.get(key, key): modern_path(value)
            if key == "class_path" and isinstance(value, str)
            else modernized(value)
            for key, value in config.items()
        }
    return [modernized(value) for value in config] if isinstance(config, list) else config


def import_components() -> None:
    """Import every module that defines a class a config may name, so that its short name is known."""
    for folder in FOLDERS:
        package = import_module(f"{PROGRAM}.{folder}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)


# Slots and arguments.


class Slot(NamedTuple):
    """A place in a config for a class.

    Attributes:
        bases: the class that fills it derives from one of these.
        given: how many of its first arguments are given by whoever calls it.
        several: the place takes a list of classes.
    """

    bases: tuple[type, ...]
    given: int = 0
    several: bool = False


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
        Slot(bases=(<class 'collections.abc.Mapping'>,), given=2, several=False)
        >>> slot_of(int | None), slot_of(list[str])
        (None, None)
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return slot_of(parts[0])
    if origin in (typing.Union, UnionType):
        found = [slot for slot in map(slot_of, parts) if slot is not None]
        if not found:
            return None
        bases = tuple(dict.fromkeys(base for slot in found for base in slot.bases))
        return Slot(bases, found[0].given, any(slot.several for slot in found))
    if origin is Callable:
        made = slot_of(parts[1])
        return made and Slot(made.bases, len(parts[0]) if isinstance(parts[0], list) else 0)
    if isinstance(origin, type) and issubclass(origin, Iterable) and parts:
        inner = slot_of(parts[0])
        return inner and inner._replace(several=True) if not issubclass(origin, Mapping | tuple) else None
    if origin is None and isinstance(annotation, type) and not _is_plain(annotation):
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


# Classes.


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
    fitting = {cls.__name__: cls for base in reversed(slot.bases) for cls in subclasses(base) if _is_offered(cls)}
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
    raise InputError(f"no class {name!r}{why}{nearest(short, names) or expected}")


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


# Objects.


class Experiment(NamedTuple):
    """What a config describes, but for the trainer.

    Attributes:
        task: the task, its network not trained yet.
        data: its data, not loaded yet.
    """

    task: Task
    data: ImageDataModule


def build(config: Mapping[str, Any]) -> Experiment:
    """Make the task and the data of a configuration.

    Args:
        config: as `capsule_lightning.cli.configs.resolve` returns it, or a run's ``config.yaml``; of it, ``data`` and
            ``model`` are used.

    Raises:
        InputError: a class or a value that a slot does not take.
    """
    from lightning.pytorch.cli import LightningArgumentParser

    from capsule_lightning.data.base import ImageDataModule
    from capsule_lightning.tasks.base import Task

    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    parser.add_lightning_class_args(Task, "model", subclass_mode=True)
    for name in FROM_DATA:
        parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
    made = _instantiated(parser, {key: config[key] for key in ("data", "model")})
    return Experiment(made.model, made.data)


def build_data(slot: Any) -> ImageDataModule:
    """Make the data module of one slot of a configuration.

    Args:
        slot: ``class_path`` and ``init_args``.

    Raises:
        InputError: a class or a value that the slot does not take.
    """
    from capsule_lightning.data.base import ImageDataModule

    made: ImageDataModule = build_part(slot, ImageDataModule)
    return made


def build_part(slot: Any, base: type) -> Any:
    """Make the object of one slot of a configuration.

    Args:
        slot: ``class_path`` and ``init_args``.
        base: what its class derives from.

    Raises:
        InputError: a class or a value that the slot does not take.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "part")
    return _instantiated(parser, {"part": slot}).part


def _instantiated(parser: Any, config: Mapping[str, Any]) -> Any:
    from jsonargparse import ArgumentError

    import_components()
    try:
        return parser.instantiate(parser.parse_object(modernized(dict(config))))
    except InputError:
        raise
    except (ArgumentError, TypeError, ValueError) as error:
        refused = error.__cause__ if isinstance(error.__cause__, InputError) else None
        raise refused or InputError(f"the configuration is refused: {' '.join(str(error).split())[:300]}") from error


# Files from elsewhere.


def require_harmless(value: object, kinds: tuple[type, ...]) -> None:
    """Refuse all but numbers, words, and classes of some kinds.

    Args:
        value: of a configuration from elsewhere.
        kinds: what the classes that it names must derive from.

    Raises:
        InputError: the value holds anything that could be taken for code to call, or for a file to read.
    """
    if isinstance(value, dict):
        if "class_path" in value:
            require(set(value) <= {"class_path", "init_args"}, f"{value!r}: expected class_path and init_args")
            known_class(str(value["class_path"]), kinds, "a network or of its evaluation")
        for key, each in value.items():
            if key != "class_path":
                require_harmless(each, kinds)
    elif isinstance(value, list):
        for each in value:
            require_harmless(each, kinds)
    elif isinstance(value, str):
        require(re.fullmatch(r"[\w -]*", value), f"{value!r} is neither a number nor a word")


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
        f"no class {name!r} here: it belongs neither to this package nor to a module that has been imported",
    )
    require(isinstance(found, type) and issubclass(found, kinds), f"{name!r} is not a part of {whole}")
    return typing.cast("Callable[..., Any]", found)
