"""Modules of one's own, whose classes a network is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from capsule_lightning.components.run_config import require_own_module
from capsule_lightning.errors import InputError, first_line, nearest
from capsule_lightning.runs.files import read_yaml
from capsule_lightning.runs.folders import CONFIG_NAME, run_of_checkpoint, see_working_folder
from capsule_lightning.shipped import PROGRAM


def import_own(checkpoint: Path) -> None:
    """Import the modules of one's own that the configuration of a checkpoint's run names, as ``test`` does.

    They are looked for in the working folder and where Python looks for modules, and never in the folder of a run,
    which may be from elsewhere. A module that is not there is left out: whoever needs its class says so.

    Args:
        checkpoint: of the run.

    Raises:
        InputError: a module is there and fails, or lies in the folder of a run.
    """
    folder = run_of_checkpoint(checkpoint)
    if folder is None:
        return
    path = folder / CONFIG_NAME
    try:
        config = read_yaml(path)
    except InputError:
        return
    see_working_folder()
    for name in dict.fromkeys(class_paths({key: config.get(key) for key in ("model", "data")})):
        module = name.rpartition(".")[0]
        top = module.partition(".")[0]
        if top and top != PROGRAM and _exists(top):
            require_own_module(name, f"{path}")
            import_module_for(f"{path}: {name}", module)


def import_modules(names: Sequence[str]) -> None:
    """Import modules by their names, from the working folder or where Python looks for modules.

    Raises:
        InputError: there is no such module, or it fails.
    """
    see_working_folder()
    for name in names:
        import_module_for(f"--import {name}", name)


def import_module_for(key: str, name: str) -> None:
    """Import a module.

    Args:
        key: what names it, for the message.
        name: its name.

    Raises:
        InputError: there is no such module, or it fails.
    """
    try:
        import_module(name)
    except Exception as error:  # its own code runs
        here = [path.stem for path in Path.cwd().glob("*.py")]
        raise InputError(
            f"{key}: cannot be imported ({type(error).__name__}: {first_line(error)}); expected the name of a module "
            f"in the working folder or on Python's path{nearest(name, here)}"
        ) from error


def class_paths(config: Any) -> Iterator[str]:
    """Yield the classes that a configuration names."""
    if isinstance(config, dict):
        if isinstance(config.get("class_path"), str):
            yield config["class_path"]
        for value in config.values():
            yield from class_paths(value)
    elif isinstance(config, list):
        for value in config:
            yield from class_paths(value)


def _exists(module: str) -> bool:
    """Return whether there is a module of that name."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
