"""Runs on disk: the id of a run, its folder, which run is meant, and who holds it."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from capsule_lightning.errors import InputError
from capsule_lightning.runs.signals import INTERACTIVE

ID_VARIABLE = "CAPSULE_LIGHTNING_RUN_ID"
CONFIG_NAME = "config.yaml"
LONGEST = 128
"""Characters of an experiment's name or of a run's id: W&B takes no more."""
NEWEST = "newest"
"""What ``--resume`` says where no run is named."""


def require_name(name: str, option: str) -> str:
    """A name that is one folder of its own, and nothing else.

    Raises:
        InputError: an empty one, one that leads elsewhere or is hidden, one that no file system or terminal takes.
    """
    if not name or name != Path(name).name or name.startswith(".") or not name.isprintable() or len(name) > LONGEST:
        raise InputError(
            f"{option}={name[:LONGEST]!r}: expected the name of one folder, of 1 to {LONGEST} characters, without "
            "slashes and not beginning with a dot"
        )
    return name


def known_run_id() -> str | None:
    """The id that the environment gives to this run, the same for all its processes and restarts.

    In this order: one set before (also by the parent process), a W&B sweep's, SLURM's job, torchrun's.

    Raises:
        InputError: torchrun on several nodes without a name for the run.
    """
    variables = os.environ
    job = variables.get("SLURM_ARRAY_JOB_ID") or variables.get("SLURM_JOB_ID")
    for name in (ID_VARIABLE, "WANDB_RUN_ID"):
        if name in variables:
            return variables[name]
    if job and "SLURM_PROCID" in variables and variables.get("SLURM_JOB_NAME") not in INTERACTIVE:
        task = variables.get("SLURM_ARRAY_TASK_ID")
        return f"slurm-{job}" if task is None else f"slurm-{job}-{task}"
    if "TORCHELASTIC_RUN_ID" in variables:
        run_id = variables["TORCHELASTIC_RUN_ID"]
        if run_id == "none" and variables.get("GROUP_WORLD_SIZE", "1") == "1":
            # torchrun's folder of this start: it has a name of its own, which all workers and restarts share
            run_id = Path(variables.get("TORCHELASTIC_ERROR_FILE", "none/0/0/0")).parents[2].name
        if run_id == "none":
            raise InputError("this run needs a name that all its nodes know: torchrun --rdzv_id NAME, or --run_id NAME")
        return f"torchrun-{run_id}"
    return None


def new_run_id() -> str:
    """The id of the environment, or else a new one, which the processes started by this one will find there."""
    run_id = known_run_id() or f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    os.environ[ID_VARIABLE] = run_id
    return run_id


def restarted() -> bool:
    """Whether SLURM or torchrun has started this run before."""
    return any(os.environ.get(name, "0") != "0" for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def run_of_checkpoint(checkpoint: str | Path) -> Path | None:
    """The folder of a checkpoint or the one above it, whichever holds a run's configuration."""
    for folder in list(Path(checkpoint).absolute().parents)[:2]:
        if (folder / CONFIG_NAME).is_file():
            return folder
    return None


def named_run(name: str, root: str | Path) -> Path:
    """The folder of a run.

    Args:
        name: the folder itself, or the id of a run below ``root``.
        root: of all experiments.

    Raises:
        InputError: there is none.
    """
    folder = Path(name).expanduser()
    found = [folder] if (folder / CONFIG_NAME).is_file() else sorted(Path(root).expanduser().glob(f"*/{folder.name}"))
    if len(found) == 1 and (found[0] / CONFIG_NAME).is_file():
        return found[0].absolute()
    newest = newest_run(root)
    example = f"; the newest is {newest}" if newest else ""
    raise InputError(f"no run {name!r}: expected the folder of a run, or the id of one below {root}{example}")


def newest_run(root: str | Path, experiment: str = "*") -> Path | None:
    """The run that has saved a checkpoint last, of one experiment or of all; None where there is none."""
    checkpoints = Path(root).expanduser().glob(f"{experiment}/*/checkpoints/*.ckpt")
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else newest.parents[1].absolute()


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys equal to those of the command line, so that sweeps, filters and grouping need no translation.

    Example:
        >>> dict(flat({"model": {"class_path": "a.b.Task", "init_args": {"lr": 0.1}}}))
        {'model': 'Task', 'model.lr': 0.1}
    """
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and "class_path" in value:
            yield name, value["class_path"].rsplit(".", 1)[-1]
            yield from flat(value.get("init_args") or {}, f"{name}.")
        elif isinstance(value, dict) and value:
            yield from flat(value, f"{name}.")
        else:
            yield name, value


def require_writable(folder: Path, option: str = "--runs") -> None:
    """Try to make a folder and to write to it; nothing is left behind.

    Args:
        folder: to write to.
        option: that chooses another.

    Raises:
        InputError: it cannot be made or written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
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


def hold(folder: Path) -> None:
    """Let no second process train in a run's folder until `let_go`, or the end of this process however that comes.

    Raises:
        InputError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".held").open("a+")
    for wait in (1, 2, 4, 0):  # a process that was killed may take a moment to be gone
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(wait)
        except OSError:  # a file system without locks
            break
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            break
    else:
        file.seek(0)
        holder = file.read() or "another process"
        file.close()
        raise InputError(f"{folder} is being trained in by {holder}; wait for its end, or choose another --run_id")
    _held.append(file)


def let_go() -> None:
    """Release what this process holds."""
    while _held:
        _held.pop().close()


_held: list[IO[str]] = []
