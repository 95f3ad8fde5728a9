"""From layers of YAML and words of the command line to one mapping that states everything.

The layers are, from below: ``default.yaml``; the configuration of the run that is resumed or measured, or of the shared
network, or else that of the digits; the ``--config`` files in their order; the options. So the command line wins,
wherever an option stands among the files. A class that replaces another starts from its own defaults.

jsonargparse could read the same files. But it carries the arguments of a class over to the class that replaces it if
their names agree (its issue 460), and answers a mistake by an account of all that it tried. Here each value is laid
over the one below with the class and its signature in hand, and jsonargparse is asked about one plain value at a time.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any

from capsule_lightning.cli import own_parts
from capsule_lightning.cli.options import OLD_OPTIONS, options_of
from capsule_lightning.cli.values import checked_value, typed_value, yaml_value
from capsule_lightning.cli.words import APART, Text, Words, read_words
from capsule_lightning.components.build import FROM_DATA
from capsule_lightning.components.names import OLD_NAMES, import_components, modernized
from capsule_lightning.components.slots import (
    Argument,
    Slot,
    arguments,
    find_class,
    names_class,
    path_of,
    shared_arguments,
)
from capsule_lightning.errors import InputError, nearest, require
from capsule_lightning.runs.files import read_yaml
from capsule_lightning.runs.folders import flat
from capsule_lightning.runs.plain_yaml import parse_yaml
from capsule_lightning.shipped import CONFIG_DIR, find_config

NOT_OURS = ("weights_only", "verbose", "return_predictions")
"""Keys that the configuration of a run may hold if it was saved before these options went."""


def resolve(words: Sequence[str] | Words, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Lay the files and the options of a training command over each other.

    Args:
        words: the command and its options, as typed or as `read_words` returns them.
        base: the configuration that lies below the files, such as that of a run; None for that of the digits if the
            words do not say what to train on, or else for none.

    Returns:
        The options of the run (see `capsule_lightning.cli.options.OPTIONS`), ``data``, ``model`` and ``trainer``. Every
        argument of every class that is chosen is stated, but for what the data tell the task.

    Raises:
        InputError: a file or an option that cannot be used; its key, its value and what was expected are named.

    Example:
        >>> config = resolve(["fit", "--config", "mnist.yaml", "--model.net.routing", "EMRouting"])
        >>> config["model"]["init_args"]["net"]["init_args"]["routing"]["init_args"]["iterations"]
        3
    """
    import_components()
    given = words if isinstance(words, Words) else read_words(words)
    root = _root(given.command)
    merged: dict[str, Any] = {}
    if base is None and not given.chooses_data:
        base = read_yaml(find_config("digits.yaml"))
    layers: list[tuple[str, Mapping[str, Any]]] = [("", read_yaml(CONFIG_DIR / "default.yaml"))]
    layers += [] if base is None else [("", base)]
    layers += [read_config(name) for name in given.configs]
    for source, layer in layers:
        known = {key: value for key, value in modernized(dict(layer)).items() if key not in NOT_OURS}
        try:
            for key, value in known.items():
                merged = _laid_at(merged, root, OLD_OPTIONS.get(str(key), str(key)).split("."), value, "")
        except InputError as error:
            raise InputError(f"{source}: {error}" if source else str(error)) from error
    options = [(OLD_OPTIONS.get(key, key), text) for key, text in given.options]
    options = [(".".join(OLD_NAMES.get(part, part) for part in key.split(".")), text) for key, text in options]
    for key, text in _choices_first(options):
        _require_option(key, root, merged)
        merged = _laid_at(merged, root, key.split("."), Text(text), "")
    require(
        merged.get("data") is not None,
        "no data set is chosen: add --data CLASS, such as MNISTDataModule, or a --config that names one",
    )
    config = {key: _completed(merged.get(key, argument.default), argument, key) for key, argument in root.items()}
    left_out = config["without"]
    config["without"] = [left_out] if isinstance(left_out, str) else left_out
    for kind in own_parts.LISTS:
        config["trainer"][kind] = own_parts.without(config["trainer"][kind], config["without"])
    return config


def read_config(name: str) -> tuple[str, Mapping[str, Any]]:
    """Read a config: a file, a shipped one by its name, or one that is written out, ``{trainer: {max_epochs: 1}}``.

    Returns:
        What to call it in an error, and the options it holds.

    Raises:
        InputError: there is no such file, or it holds no options.
    """
    if name.startswith("{"):
        return "--config", parse_yaml(name, "--config")
    path = find_config(name)
    return path, read_yaml(path)


def argument_at(command: str, key: str) -> Argument:
    """Return the argument that a key of the command line stands for, as the class is chosen by default.

    Raises:
        InputError: there is none.
    """
    import_components()
    config = resolve([command])
    argument = Argument()
    node: Any = config
    known: Mapping[str, Argument] = _root(command)
    for part in key.split("."):
        require(part in known, f"no option {key!r}{nearest(part, [*known])}")
        argument, node = known[part], (node or {}).get(part)
        if argument.annotation is _Trainer:
            known = _groups()["trainer"]
        elif argument.slot is not None and isinstance(node, dict):
            known = _arguments(find_class(node["class_path"], argument.slot), argument.slot)
            node = node.get("init_args")
    return argument


# The places of a config.


class _Trainer:
    """Marks the arguments of the trainer, which is a group of options and no slot: its class is not chosen."""


@cache
def _root(command: str) -> dict[str, Argument]:
    """The arguments at the top of a config."""
    from capsule_lightning.data.module import DataModule
    from capsule_lightning.tasks.base import Task

    options = {name: Argument(option.annotation, option.default) for name, option in options_of(command).items()}
    return {
        **options,
        "data": Argument(DataModule),
        "model": Argument(Task),
        "trainer": Argument(_Trainer, None),
    }


@cache
def _groups() -> dict[str, dict[str, Argument]]:
    import lightning as L

    return {"trainer": arguments(L.Trainer)}


@cache
def _arguments(cls: type, slot: Slot) -> dict[str, Argument]:
    """The arguments of a class that a config may give."""
    from capsule_lightning.tasks.base import Task

    known = arguments(cls, slot.given_to(cls))
    return {k: v for k, v in known.items() if k not in FROM_DATA} if issubclass(cls, Task) else known


# Laying one value over another.


def _laid_at(below: Any, known: Mapping[str, Argument], parts: list[str], value: Any, key: str) -> dict[str, Any]:
    """Lay a value over that of the argument to which a dotted key leads.

    Args:
        below: the arguments as they are, by name.
        known: those that there are.
        parts: of the dotted key.
        value: to lay over, `Text` if it was typed.
        key: that leads to ``below``, for errors.
    """
    name, appends = parts[0].removesuffix("+"), parts[0].endswith("+")
    if name not in known:
        _refuse_name(name, known, key)
    argument, here = known[name], f"{key}.{name}" if key else name
    before = (below or {}).get(name)
    if argument.annotation is _Trainer:
        group = before or {}
        inner = _groups()["trainer"]
        if len(parts) > 1:
            return {**below, name: _laid_at(group, inner, parts[1:], value, here)}
        layer = parse_yaml(value, f"--{here}") if isinstance(value, Text) else value
        require(isinstance(layer, Mapping), f"{here}: got {value}, expected options and their values")
        for each, setting in layer.items():
            group = _laid_at(group, inner, str(each).split("."), setting, here)
        return {**below, name: group}
    if len(parts) == 1:
        return {**(below or {}), name: _laid(before, value, argument, here, appends)}
    return {**(below or {}), name: _laid_within(before, argument, parts[1:], value, here)}


def _laid_within(before: Any, argument: Argument, parts: list[str], value: Any, key: str) -> Any:
    """Lay a value over an argument of the class that fills a slot, or over an entry of a mapping."""
    slot = argument.slot
    if slot is None:
        require(isinstance(before, Mapping) or argument.admits(dict), f"{key}: takes no option {'.'.join(parts)!r}")
        return {**(before or {}), ".".join(parts): yaml_value(value, key) if isinstance(value, Text) else value}
    if slot.several:
        items = list(before) if isinstance(before, list) else []
        require(items, f"{key}.{parts[0]}: there is nothing in {key} yet; add to it with --{key}+ CLASS first")
        return [*items[:-1], _laid_within(items[-1], _one_of(slot), parts, value, key)]
    if parts == ["class_path"]:
        return _laid(before, value, argument, key, appends=False)
    if parts[0] == "init_args" and len(parts) > 1:
        parts = parts[1:]
    elif parts[0] == "init_args":
        return _laid(before, {"init_args": parse_yaml(value, f"--{key}")}, argument, key, appends=False)
    cls = _class_of(before, argument)
    require(cls is not None, f"{key}.{'.'.join(parts)}: no class is chosen for {key}; choose one with --{key} CLASS")
    known = _arguments(typing.cast(type, cls), slot)
    inner = _laid_at((before or {}).get("init_args") or {}, known, parts, value, key)
    return {**(before or {}), "class_path": path_of(typing.cast(type, cls)), "init_args": inner}


def _laid(before: Any, value: Any, argument: Argument, key: str, appends: bool) -> Any:
    """Lay a value over that of an argument."""
    slot = argument.slot
    if slot is None:
        new = checked_value(value, argument, key)
        return [*(before or []), *(new if isinstance(new, list) else [new])] if appends else new
    if isinstance(value, Text):
        value = typed_value(value, argument, key)
    kind = key.removeprefix("trainer.")
    if slot.several and (not isinstance(value, bool | None) or (value is None and kind in own_parts.LISTS)):
        one = _one_of(slot)
        items = value if isinstance(value, list) else [] if value is None else [value]
        for n, item in enumerate(items):
            require(item is not None, f"{key}[{n}] is null; expected a class in its place")
        new = [_laid(None, item, one, f"{key}[{n}]" if len(items) > 1 else key, False) for n, item in enumerate(items)]
        if kind in own_parts.LISTS and before is not None:
            return own_parts.joined(kind, before, new, appends)
        return [*(before if isinstance(before, list) else []), *new] if appends else new
    if isinstance(value, str) and (not value or (argument.admits(str) and not names_class(value, slot))):
        return checked_value(value, argument, key)
    if isinstance(value, str):
        value = {"class_path": value}
    if not isinstance(value, Mapping):
        return checked_value(value, argument, key)
    return _class_laid(before, value, argument, slot, key)


def _class_laid(before: Any, value: Mapping[str, Any], argument: Argument, slot: Slot, key: str) -> dict[str, Any]:
    """Lay a class and its arguments over what fills a slot."""
    if "class_path" not in value and "init_args" not in value:
        value = {"init_args": value}
    unknown = set(value) - {"class_path", "init_args", "dict_kwargs"}
    require(not unknown, f"{key}: {', '.join(map(str, sorted(unknown)))} beside class_path: expected init_args alone")
    old = _class_of(before, argument)
    try:
        cls = old if value.get("class_path") is None else find_class(str(value["class_path"]), slot)
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    if cls is None:
        raise InputError(f"{key}: no class is chosen; expected class_path beside init_args")
    kept = (before or {}).get("init_args") or {}
    if old is not None and cls is not old:
        shared = shared_arguments(old, cls)
        kept = {name: each for name, each in kept.items() if name in shared}
    layer = value.get("init_args") or {}
    require(isinstance(layer, Mapping), f"{key}: init_args is {layer!r}; expected arguments and their values")
    for name, each in layer.items():
        kept = _laid_at(kept, _arguments(cls, slot), str(name).split("."), each, key)
    more = {"dict_kwargs": value["dict_kwargs"]} if value.get("dict_kwargs") else {}
    return {"class_path": path_of(cls), "init_args": kept, **more}


def _class_of(before: Any, argument: Argument) -> type | None:
    """The class that fills a slot, or the default one."""
    if isinstance(before, Mapping) and "class_path" in before:
        return find_class(before["class_path"], typing.cast(Slot, argument.slot))
    return argument.default if inspect.isclass(argument.default) and not argument.required else None


def _one_of(slot: Slot) -> Argument:
    """One place of a slot that takes several classes."""
    return Argument(typing.Union[slot.bases])  # noqa: UP007, a tuple of types


def _refuse_name(name: str, known: Mapping[str, Argument], key: str) -> typing.NoReturn:
    """Say that there is no such argument."""
    if name in FROM_DATA and key == "model":
        raise InputError(f"model.{name}: the data state it; leave the option out")
    if key == "trainer" or not key:
        prefix = f"{key}." if key else ""
        raise InputError(f"no option {prefix + name!r}{nearest(prefix + name, [prefix + each for each in known])}")
    raise InputError(f"{key}: no option {name!r}{nearest(name, [*known])}")


def _require_option(key: str, root: Mapping[str, Argument], merged: Mapping[str, Any]) -> None:
    """Refuse an option that begins with no word at the top of a config; the one that ends like it is named."""
    first = key.split(".")[0].removesuffix("+")
    if first in root:
        return
    known = list(dict.fromkeys([*(name for name, _ in flat(merged)), *(f"trainer.{n}" for n in _groups()["trainer"])]))
    ends = [name for name in known if f".{name}".endswith(f".{key}")]
    ends += [name for name in known if name.endswith(f".max_{key}")]
    ends += [name for name in root if name.startswith(key)]
    meant = f"; did you mean {ends[0]!r}?" if ends else nearest(key, [*root, *APART, *known])
    raise InputError(f"no option {key!r}{meant}")


def _choices_first(options: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Options in their order, but for the choice of a class, which comes before the arguments of that class.

    Example:
        >>> _choices_first([("optimizer.lr", "0.1"), ("seed", "1"), ("optimizer", "SGD")])
        [('optimizer', 'SGD'), ('optimizer.lr', '0.1'), ('seed', '1')]
    """
    ordered = list(options)
    for key, text in options:
        first = next((n for n, (other, _) in enumerate(ordered) if other.startswith(f"{key}.")), None)
        place = ordered.index((key, text))
        if first is not None and first < place:
            ordered.insert(first, ordered.pop(place))
    return ordered


# The rest.


def _completed(value: Any, argument: Argument, key: str) -> Any:
    """A value whose classes state every one of their arguments.

    Raises:
        InputError: an argument that has no default lacks its value.
    """
    if argument.annotation is _Trainer:
        known = _groups()["trainer"]
        return {
            name: _completed((value or {}).get(name, each.default), each, f"{key}.{name}")
            for name, each in known.items()
        }
    slot = argument.slot
    if slot is None:
        return value.value if isinstance(value, Enum) else list(value) if isinstance(value, tuple) else value
    if slot.several and isinstance(value, list):
        return [_completed(item, _one_of(slot), key) for item in value]
    if inspect.isclass(value):
        value = {"class_path": path_of(value)}
    if not isinstance(value, Mapping):
        return value
    cls = find_class(value["class_path"], slot)
    given = value.get("init_args") or {}
    known = _arguments(cls, slot)
    filled = {*given, *own_parts.places(cls)}
    lacking = [name for name, each in known.items() if each.required and name not in filled]
    require(not lacking, f"{key}: {cls.__name__} lacks {', '.join(lacking)}, which has no default: give it a value")
    stated = {
        name: _completed(given.get(name, each.default), each, f"{key}.{name}")
        for name, each in known.items()
        if name in given or (not each.required and _is_stated(each.default))
    }
    more = {"dict_kwargs": value["dict_kwargs"]} if "dict_kwargs" in value else {}
    return {"class_path": path_of(cls), "init_args": stated, **more}


def _is_stated(default: Any) -> bool:
    """Whether a default can be written into a file."""
    if isinstance(default, tuple | list):
        return all(map(_is_stated, default))
    return inspect.isclass(default) or isinstance(default, bool | int | float | str | dict | None)
