"""Places of the files that a command is asked for."""

from __future__ import annotations

import os
from pathlib import Path

from capsule_lightning.errors import InputError, first_line, require
from capsule_lightning.runs.folders import CONFIG_NAME

OWN = ("predict", "test", "validate")
"""Folders in a run's folder for what its network was asked later; nothing else there is written over."""


RECORDS = ("config.yaml", "metrics.csv", "environment.json", "command.txt", "output.txt")
"""Names of the files that a run writes itself, its checkpoints aside."""


def require_place(path: Path, overwrite: bool, option: str = "--output") -> None:
    """Refuse a place whose folder does not exist, or that is taken, see `require_free`.

    Raises:
        InputError: the folder does not exist, or the place is taken.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder; make it, or choose another {option}")
    require_free(path, overwrite, option)


def require_free(path: Path, overwrite: bool, option: str) -> None:
    """Refuse a place that is taken.

    Args:
        path: the place.
        overwrite: a file there may be replaced.
        option: the option that chose it, for the message.

    Raises:
        InputError: there is a folder of that name; or a file, and it is not to be replaced; or the name is impossible.
    """
    try:
        is_folder, is_taken = path.is_dir(), os.path.lexists(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)[:100]}: {first_line(error)[:100]}; choose another {option}") from error
    require(not is_folder, f"{path}: is a folder; choose another {option}")
    require(overwrite or not is_taken, f"{path} exists; choose another {option}, or replace it with --overwrite")


def require_name_of_no_run(path: Path, option: str) -> None:
    """Refuse the name of a file that a run writes itself, wherever it is to lie.

    Raises:
        InputError: it is such a name.
    """
    belongs = path.name in RECORDS or path.suffix == ".ckpt"
    require(not belongs, f"{path}: is the name of a file that belongs to a run; choose another {option}")


def require_not_of_a_run(path: Path, option: str = "--output") -> None:
    """Refuse to write over a file by which a run is known, such as its ``metrics.csv``.

    Args:
        path: the place.
        option: the option that chose it, for the message.

    Raises:
        InputError: it is a file of a run.
    """
    place = path.resolve()
    for folder in list(place.parents)[:3]:
        inside = place.relative_to(folder).parts
        if (folder / CONFIG_NAME).is_file() and place.exists() and inside[0] not in OWN:
            raise InputError(f"{path}: is a file of the run {folder}, which needs it; choose another {option}")


def from_here(path: Path) -> str:
    """Return a path relative to the working folder if it lies there.

    Example:
        >>> from_here(Path.cwd() / "runs" / "one"), from_here(Path("/elsewhere"))
        ('runs/one', '/elsewhere')
    """
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)
