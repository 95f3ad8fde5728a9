"""Which checkpoint a name means: a file, a run by its folder or its id, or the newest run's best or last state."""

from __future__ import annotations

from pathlib import Path

from capsule_lightning.errors import InputError
from capsule_lightning.runs.checkpoint_files import FOLDER, LAST, require_checkpoint
from capsule_lightning.runs.folders import CONFIG_NAME, expanded, named_run, newest_run

BEST_NAME, LAST_NAME = "best", "last"
"""Names of the newest run's states."""


def checkpoint_named(name: str | None, runs: str | Path = "runs", experiment: str = "*") -> Path:
    """Return the checkpoint that a name means.

    Args:
        name: a file; the folder of a run or its id, for the best state of that run; ``best`` or ``last``, of the run
            that saved a state last; None for its best state.
        runs: folder of all experiments.
        experiment: the experiment whose newest run is meant; ``*`` for all.

    Raises:
        InputError: there is no such file and no such run, or the run has no checkpoint.
    """
    path = expanded(name or BEST_NAME, "--ckpt_path")
    if path.is_file():
        return path
    if name in (None, BEST_NAME, LAST_NAME):
        folder = newest_run(runs, experiment)
        if folder is None:
            raise InputError(
                f"ckpt_path={name or 'best'}: no run with a checkpoint below {runs}; expected a checkpoint, a run's "
                f"folder or id, or a network's name, such as runs/.../{FOLDER}/{LAST}"
            )
        return state_of(folder, name or BEST_NAME)
    if path.name == FOLDER and (path.parent / CONFIG_NAME).is_file():
        path = path.parent
    if path.is_dir() or is_id(name, runs):
        return state_of(named_run(str(path), runs), BEST_NAME)
    return path  # whoever reads it says that it is not there


def is_id(name: str, runs: str | Path) -> bool:
    """Return whether a name is the id of a run below ``runs``."""
    return Path(name).name == name and any(expanded(runs, "--runs").glob(f"*/{name}/{CONFIG_NAME}"))


def state_of(folder: Path, which: str) -> Path:
    """Return the best or the last state of a run; the last one if none was selected as the best.

    Raises:
        InputError: the run has no checkpoint.
    """
    last = folder / FOLDER / LAST
    best = sorted((folder / FOLDER).glob("epoch*.ckpt"), key=lambda path: path.stat().st_mtime)
    if which == BEST_NAME and best:
        chosen = best_of_state(last) if len(best) > 1 else None
        return next((path for path in best if path.name == chosen), best[-1])
    if last.is_file():
        return last
    if best:
        return best[-1]
    raise InputError(f"{folder}: the run has no checkpoint in {FOLDER}; go on with it: fit --resume {folder}")


def best_of_state(last: Path) -> str | None:
    """Return the file name of the best state, as the last one knows it; None if it does not."""
    try:
        states = require_checkpoint(last).get("callbacks", {})
    except InputError:
        return None
    paths = [state.get("best_model_path") for state in states.values() if isinstance(state, dict)]
    return next((Path(path).name for path in paths if path), None)
