"""Runs on disk: the id of a run, its folder, and the folder that a checkpoint belongs to."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

from capsule_lightning.errors import InputError

ID_VARIABLE = "CAPSULE_LIGHTNING_RUN_ID"
CONFIG_NAME = "config.yaml"


def new_run_id() -> str:
    """The same id for all processes and all restarts of a run.

    In this order: one set before (also by the parent process), a W&B sweep's, SLURM's job, torchrun's, a new one.
    """
    variables = os.environ
    if ID_VARIABLE not in variables:
        job = variables.get("SLURM_ARRAY_JOB_ID") or variables.get("SLURM_JOB_ID")
        if "WANDB_RUN_ID" in variables:
            run_id = variables["WANDB_RUN_ID"]
        elif job and "SLURM_PROCID" in variables and variables.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
            task = variables.get("SLURM_ARRAY_TASK_ID")
            run_id = f"slurm-{job}" if task is None else f"slurm-{job}-{task}"
        elif variables.get("TORCHELASTIC_RUN_ID", "none") != "none":
            run_id = f"torchrun-{variables['TORCHELASTIC_RUN_ID']}"
        else:
            run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
        variables[ID_VARIABLE] = run_id
    return variables[ID_VARIABLE]


def run_of_checkpoint(checkpoint: str | Path) -> Path | None:
    """The nearest folder above a checkpoint that holds a run's configuration."""
    for folder in Path(checkpoint).absolute().parents:
        if (folder / CONFIG_NAME).is_file():
            return folder
    return None


def require_checkpoint(path: str | Path) -> None:
    """Refuse a file that is not there, is torn or is no checkpoint of a task.

    Raises:
        InputError: with the reason.
    """
    import torch

    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint; expected a file like runs/.../checkpoints/last.ckpt")
    try:
        found = torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # whatever unpickling meets in a file that is no checkpoint
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: cannot be read as a checkpoint ({reason[0]}); take another one") from error
    if not isinstance(found, dict) or "state_dict" not in found:
        raise InputError(f"{path}: holds no network; expected a checkpoint that `fit` has written")


def require_writable(folder: Path) -> None:
    """Try to make a folder and to write to it; nothing is left behind.

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
            f"{folder}: the run's folder cannot be written ({error.strerror}); choose another with --runs FOLDER"
        ) from error
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()
