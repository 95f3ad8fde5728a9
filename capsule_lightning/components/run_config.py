"""The configuration of a run that somebody else may have made, read so that it runs no code of theirs.

A run's ``config.yaml`` names classes, and a class that is made runs. So what comes from a run is checked, value by
value, against the signatures of the classes that it chooses, before any of it is made:

* a class must fit its slot, and belong to this package, to a library that it stands on, or to a module that lies on the
  user's own path, outside any run's folder;
* an argument whose type is open, or that takes a function, gets no class and no function;
* no value is an address.

A command that looks at a trained network takes its task and its data, and nothing of its trainer. Resuming a run takes
all of it, so its trainer may also name no place outside the run to write to. A user who wants what is refused here says
so with ``--trust_run``, once, see `capsule_lightning.runs.trust`.
"""

from __future__ import annotations

import glob
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from capsule_lightning.components.names import import_components, modern_path, modernized
from capsule_lightning.components.slots import Argument, arguments, find_class
from capsule_lightning.errors import InputError, require
from capsule_lightning.runs.files import read_yaml
from capsule_lightning.runs.folders import CONFIG_NAME, expanded
from capsule_lightning.runs.trust import is_trusted, trust

PLACES = ("dir", "path", "folder", "file", "filename")
"""How the names of a trainer's arguments end that say where to write."""
LOOKED_AT = ("experiment", "seed_everything", "data", "model")
"""What a command takes from a run that it only looks at."""


def read_run_config(run: Path) -> dict[str, Any]:
    """Return of a run's configuration what evaluates its network: the experiment, the seed, the data and the task.

    Args:
        run: folder of the run.

    Raises:
        InputError: the file cannot be read, or names something that could run code; its key and value are named.
    """
    config = modernized(read_yaml(run / CONFIG_NAME))
    kept: dict[str, Any] = {key: config[key] for key in LOOKED_AT if key in config}
    require_harmless_config(kept, run)
    arguments_of_data = kept["data"].get("init_args") if isinstance(kept.get("data"), dict) else None
    if isinstance(arguments_of_data, dict) and "download" in arguments_of_data:
        arguments_of_data["download"] = arguments_of_data["download"] and _is_here(arguments_of_data.get("root"))
    return kept


def _is_here(root: Any) -> bool:
    """Whether a folder lies in the working folder; into one that lies elsewhere, a run may not have data downloaded."""
    return root is None or expanded(str(root), "data.root").resolve().is_relative_to(Path.cwd())


def read_resumed_config(run: Path, trusts: bool) -> dict[str, Any]:
    """Return the whole configuration of a run that is to be resumed.

    Args:
        run: folder of the run.
        trusts: the user has said so of this run.

    Raises:
        InputError: the file cannot be read; or it names something that could run code or write elsewhere, and the user
            has neither written it nor trusted it.
    """
    path = run / CONFIG_NAME
    config: dict[str, Any] = modernized(read_yaml(path))
    if trusts:
        trust(path)
    elif not is_trusted(path):
        try:
            require_harmless_config(config, run)
        except InputError as error:
            raise InputError(f"{error}; if you know whoever made this run, add --trust_run once") from error
    return config


def trust_what_is_unusual(run: Path) -> None:
    """Note that the user has written a run's configuration, if resuming it would otherwise be refused."""
    try:
        require_harmless_config(modernized(read_yaml(run / CONFIG_NAME)), run)
    except InputError:
        trust(run / CONFIG_NAME)


def require_harmless_config(config: Mapping[str, Any], run: Path) -> None:
    """Refuse the configuration of a run if making what it names could run code of whoever wrote it.

    Args:
        config: brought up to date by `modernized`.
        run: folder of the run.

    Raises:
        InputError: a class that does not fit its slot or comes from elsewhere, a class or a function for an argument
            whose type is open, an address, or a place outside the run for the trainer to write to.
    """
    import lightning as L

    from capsule_lightning.data.module import DataModule
    from capsule_lightning.tasks.base import Task

    import_components()
    slots = {"data": Argument(DataModule), "model": Argument(Task)}
    try:
        for key, value in config.items():
            if key == "trainer" and isinstance(value, Mapping):
                known = arguments(L.Trainer)
                for name, each in value.items():
                    _require_harmless(each, known.get(name, Argument()), f"trainer.{name}")
                    _require_inside(each, name, f"trainer.{name}", run)
            else:
                _require_harmless(value, slots.get(key, Argument()), str(key))
    except InputError as error:
        raise InputError(f"{run / CONFIG_NAME}: {error}") from error


def _require_inside(value: Any, name: str, key: str, run: Path) -> None:
    """Refuse an argument that names a place outside the run."""
    if isinstance(value, Mapping):
        for inner, each in value.items():
            _require_inside(each, str(inner), f"{key}.{inner}" if inner != "init_args" else key, run)
    elif isinstance(value, list):
        for each in value:
            _require_inside(each, name, key, run)
    elif isinstance(value, str) and name.endswith(PLACES) and name != "class_path":
        place = expanded(value, key).resolve()
        require(place.is_relative_to(run.resolve()), f"{key}: got {value!r}, a place outside the run; leave it out")


def _require_harmless(value: Any, argument: Argument, key: str) -> None:
    slot = argument.slot
    if slot is None:
        _require_plain(value, argument, key)
    elif isinstance(value, list):
        for each in value:
            _require_harmless(each, argument, key)
    elif isinstance(value, Mapping):
        require(
            set(value) <= {"class_path", "init_args"} and isinstance(value.get("class_path"), str),
            f"{key}: got {value!r}, expected class_path and init_args",
        )
        require_own_module(value["class_path"], key)
        cls = find_class(value["class_path"], slot)
        known, given = arguments(cls), value.get("init_args") or {}
        require(isinstance(given, Mapping), f"{key}: init_args is {given!r}; expected arguments and their values")
        for name, each in given.items():
            _require_harmless(each, known.get(name, Argument()), f"{key}.{name}")
    elif isinstance(value, str) and not argument.admits(str):
        require_own_module(value, key)
        find_class(value, slot)
    else:
        _require_plain(value, argument, key)


def _require_plain(value: Any, argument: Argument, key: str) -> None:
    """Refuse what an argument would make an object or a function of, and addresses."""
    for text in _texts(value, key):
        require("://" not in text, f"{key}: got {text!r}, an address; expected a value that lies on this machine")
        require(
            not _takes_code(argument.annotation),
            f"{key}: got {text!r}, which could be a function to call; leave it out, or train with a config of your own",
        )


def _texts(value: Any, key: str) -> Iterator[str]:
    """Yield every text in a plain value.

    Raises:
        InputError: a class stands in it.
    """
    if isinstance(value, Mapping):
        require(
            "class_path" not in value,
            f"{key}: got the class {value.get('class_path')!r}, where a run of somebody else may only have plain "
            "values; leave it out, or train with it by your own config",
        )
        for name, each in value.items():
            yield from _texts(each, f"{key}.{name}")
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, key)
    elif isinstance(value, str):
        yield value


def _takes_code(annotation: Any) -> bool:
    """Return whether text could become a function or a class for an argument of this type."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (Callable, typing.Callable, type) or origin in (Callable, type):
        return True
    return any(map(_takes_code, parts))


def require_own_module(path: str, key: str) -> None:
    """Refuse the dotted path of a class whose module a stranger could have brought, without importing it.

    Args:
        path: of a class; a short name has no module of its own, and passes.
        key: of the argument, for messages.

    Raises:
        InputError: the module lies in the folder of a run, or is one of Python's own, which has no part of a network.
    """
    module = modern_path(path).rpartition(".")[0]
    if not module:
        return
    require(
        module.split(".")[0] not in sys.stdlib_module_names,
        f"{key}: got {path!r}, which is no class for this place",
    )
    for place in _places_of(module):
        folder = next((each for each in place.parents if _is_run(each)), None)
        require(
            folder is None,
            f"{key}: got {path!r}, whose code lies in the run {folder}; if you trust it, move it out of the run, onto "
            "your own path",
        )


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG_NAME).is_file() and any((folder / each).exists() for each in ("checkpoints", "metrics.csv"))


def _places_of(module: str) -> Iterator[Path]:
    """Yield the files and folders that importing a module would read, as far as they are found without importing."""
    top, *inner = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError, AttributeError):  # a module made by hand has no spec
        return
    if spec is None:
        return
    folders = [Path(each) for each in spec.submodule_search_locations or ()]
    found = [*folders, *([Path(spec.origin)] if spec.has_location and spec.origin else [])]
    for part in inner:
        yield from (place.resolve() for place in found)
        found = [place for folder in folders for place in (folder / part, *folder.glob(f"{glob.escape(part)}.*"))]
        found = [place for place in found if place.exists()]
        folders = [place for place in found if place.is_dir()]
    yield from (place.resolve() for place in found)
