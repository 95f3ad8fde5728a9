"""Folders of runs: the id of a run, its folder, which run a name means, and which process trains in it."""

from __future__ import annotations

import fcntl
import glob
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import invalidate_caches
from pathlib import Path
from typing import IO, Any

from capsule_lightning.errors import InputError

ID_VARIABLE = "CAPSULE_LIGHTNING_RUN_ID"
CONFIG_NAME = "config.yaml"
LONGEST = 128
"""Most characters of an experiment's name or of a run's id that W&B takes."""
NEWEST = "newest"
"""Value of ``--resume`` if no run is named."""


def see_working_folder() -> None:
    """Let Python find modules of the user's own in the working folder, however it was started.

    The folder comes after all others, so that no file there takes the place of a library.
    """
    with suppress(OSError):  # it has been removed
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
    invalidate_caches()


def require_name(name: str, option: str) -> str:
    """Return a name, if it names one folder and nothing else.

    Args:
        name: the name.
        option: the option that gave it, for the message.

    Raises:
        InputError: the name is empty, leads elsewhere, is hidden, or is too long or not printable.
    """
    if not name or name != Path(name).name or name.startswith(".") or not name.isprintable() or len(name) > LONGEST:
        raise InputError(
            f"{option}={name[:LONGEST]!r}: expected the name of one folder, of 1 to {LONGEST} characters, without "
            "slashes and not beginning with a dot"
        )
    return name


def expanded(path: str | Path, option: str) -> Path:
    """Return a path, with the home folder in place of ``~``.

    Args:
        path: as it was given.
        option: the option that gave it, for the message.

    Raises:
        InputError: ``~name`` of a user who does not exist.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{option}={path}: there is no such user; give the folder itself") from error


def run_of_checkpoint(checkpoint: str | Path) -> Path | None:
    """Return the run of a checkpoint: its folder or the one above, whichever holds a configuration; None if neither."""
    for folder in list(Path(checkpoint).absolute().parents)[:2]:
        if (folder / CONFIG_NAME).is_file():
            return folder
    return None


def named_run(name: str, root: str | Path) -> Path:
    """Return the folder of a run.

    Args:
        name: the folder itself, or the id of a run below ``root``.
        root: folder of all experiments.

    Raises:
        InputError: there is no such run, or several have that id.
    """
    folder = expanded(name, "--resume")
    is_run = (folder / CONFIG_NAME).is_file() or any(folder.glob("checkpoints/*.ckpt"))
    found = [folder] if is_run else sorted(expanded(root, "--runs").glob(f"*/{glob.escape(folder.name)}"))
    if len(found) == 1 and (found[0] / CONFIG_NAME).is_file():
        return found[0].absolute()
    if len(found) == 1 and any(found[0].glob("checkpoints/*.ckpt")):
        raise InputError(
            f"{found[0]}: the run has lost its {CONFIG_NAME}, which says what was trained: put it back, or start a new "
            f"run with the options of this one and --ckpt_path {found[0]}/checkpoints/last.ckpt"
        )
    newest = newest_run(root)
    example = f"; the newest is {newest}" if newest else ""
    raise InputError(f"no run {name!r}: expected the folder of a run, or the id of one below {root}{example}")


def newest_run(root: str | Path, experiment: str = "*") -> Path | None:
    """Return the run that saved a checkpoint last, of one experiment or of all; None if there is none.

    A folder without a configuration is not a run.
    """
    found = expanded(root, "--runs").glob(f"{experiment}/*/checkpoints/*.ckpt")
    checkpoints = (path for path in found if (path.parents[1] / CONFIG_NAME).is_file())
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else newest.parents[1].absolute()


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a configuration by dotted keys, as the command line, sweeps, filters and grouping use them.

    Example:
        >>> dict(flat({"model": {"class_path": "a.b.Task", "init_args": {"lr": 0.1}}}))
        {'model': 'Task', 'model.lr': 0.1}
    """
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(value.get("class_path"), str):
            yield name, value["class_path"].rsplit(".", 1)[-1]
            arguments = value.get("init_args")
            yield from flat(arguments if isinstance(arguments, dict) else {}, f"{name}.")
        elif isinstance(value, dict) and value:
            yield from flat(value, f"{name}.")
        else:
            yield name, value


def require_writable(folder: Path, option: str = "--runs") -> None:
    """Refuse a folder that cannot be made or written to; nothing is left behind.

    Args:
        folder: the folder.
        option: the option that chooses another one, for the message.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    made: list[Path] = []
    try:
        made += [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: the run's folder cannot be written ({error.strerror}); choose another with {option} FOLDER"
        ) from error
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def lock_run(folder: Path) -> None:
    """Let no other process train in a run's folder until `unlock_run`, or until this process ends in whatever way.

    Raises:
        InputError: another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".held"
    try:
        file = path.open("a+")
    except PermissionError:  # made by another user: it can be locked all the same
        file = path.open()
    for wait in (1, 2, 4, 0):  # a process that was killed may take a moment to be gone
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(wait)
        except OSError:  # a file system without locks
            break
        else:
            if file.writable():
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            break
    else:
        file.seek(0)
        holder = file.read() or "another process"
        file.close()
        raise InputError(f"{folder} is being trained in by {holder}; wait until it ends, or choose another --run_id")
    _locks.append(file)


def unlock_run() -> None:
    """Release every folder that this process has locked."""
    while _locks:
        _locks.pop().close()


_locks: list[IO[str]] = []
