"""Which run a command is about: a new one, one that is resumed, or that of a checkpoint.

A run that SLURM or torchrun restarts, or that its user resumes, is the same run: same folder, same id, same curves.

=======================  ===================  =========================  ==============================================
asked for                started              folder                     state that training starts from
=======================  ===================  =========================  ==============================================
nothing                  for the first time   a new one [1]_             none
nothing                  again [2]_           that of the same id        the newest good one in the folder, or none
``--resume RUN``         either               the run of that name       the newest good one in the folder, or none
``--resume``             with an id [1]_      that of the id             the newest good one in the folder, or none
``--resume``             without              the newest run             the newest good one in the folder, or none
``--ckpt_path FILE``     for the first time   that of the file [3]_      the file
``--ckpt_path FILE``     again [2]_           that of the file [3]_      the newest good one in the folder, or the file
=======================  ===================  =========================  ==============================================

.. [1] ``--run_id``; or the id that the environment gives, see `known_run_id`; or else one that is drawn.
.. [2] By SLURM or torchrun, see `restarted`.
.. [3] A new folder if the file lies in no run, or if ``--run_id`` is given. A new run in a folder that holds
   checkpoints is refused, see `require_new`.

The other commands look at the run of their checkpoint, and write below its folder; without a run, into a new one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from capsule_lightning.errors import InputError, require
from capsule_lightning.runs.folders import (
    CONFIG_NAME,
    ID_VARIABLE,
    NEWEST,
    expanded,
    named_run,
    newest_run,
    require_name,
    run_of_checkpoint,
)
from capsule_lightning.runs.signals import INTERACTIVE


class Choice(NamedTuple):
    """The run that a command is about, see the table above.

    Attributes:
        folder: of the run; its name is the run's id.
        begins: the run is new: it has no state, and its folder holds no checkpoint.
        seeks_newest: training starts from the newest good checkpoint in the folder, if there is one.
        checkpoint: the file that training starts from otherwise, or that is measured; None for none.
    """

    folder: Path
    begins: bool
    seeks_newest: bool
    checkpoint: str | None


def choose(command: str, config: Mapping[str, Any], environment: Mapping[str, str]) -> Choice:
    """Choose the run that a training command is about.

    Args:
        command: such as ``fit``.
        config: with ``experiment``, ``runs``, ``run_id``, ``ckpt_path`` and, for ``fit``, ``resume``.
        environment: variables of the process.

    Raises:
        InputError: two options that name different runs, a run that is not there, a name that is not one of a folder.
    """
    checkpoint, resume, run_id = config["ckpt_path"], config.get("resume"), config["run_id"]
    require(
        checkpoint is None or resume is None,
        f"ckpt_path={checkpoint}, resume={resume}: both name what to start from; give one of the two",
    )
    require(
        run_id is None or resume in (None, NEWEST) or Path(str(resume)).name == run_id,
        f"run_id={run_id}, resume={resume}: are two runs; give one of the two options",
    )
    experiments, folder = expanded(config["runs"], "--runs"), None
    if resume not in (None, NEWEST):
        folder = named_run(str(resume), experiments)
    elif checkpoint is not None and run_id is None:
        folder = run_of_checkpoint(checkpoint)
    if folder is None:  # only now is the environment asked, which may have to refuse
        known = known_run_id(environment) if run_id is None else require_name(run_id, "run_id")
        if resume is not None and known is None:
            folder = newest_run(experiments, config["experiment"])
    if folder is None:
        experiment = require_name(str(config["experiment"]), "experiment")
        folder = experiments / experiment / require_name(known or new_run_id(), ID_VARIABLE)
    again = command == "fit" and restarted(environment)
    begins = command == "fit" and checkpoint is None and resume is None and not again
    seeks_newest = command == "fit" and (resume is not None or again)
    return Choice(folder, begins, seeks_newest, checkpoint)


def run_below(given: Mapping[str, str | None], chooses_data: bool, environment: Mapping[str, str]) -> Path | None:
    """Return the run whose configuration lies below the words: that of a checkpoint, or one that is resumed.

    A job that is queued again says all that it said the first time. So if the words choose the data, ``--resume``
    without a name needs no other configuration.

    Args:
        given: what was typed for ``ckpt_path``, ``resume``, ``run_id``, ``runs`` and ``experiment``; None for nothing.
        chooses_data: the words say what to train on.
        environment: variables of the process.

    Returns:
        The run's folder, or None if there is no such run.

    Raises:
        InputError: the run that is named is not there, or several have its id.
    """
    checkpoint, resume = given.get("ckpt_path"), given.get("resume")
    root = expanded(given.get("runs") or "runs", "--runs")
    if checkpoint is not None and Path(checkpoint).is_file():
        return run_of_checkpoint(checkpoint)
    if resume is None:
        return None
    if resume != NEWEST:
        return named_run(resume, root)
    run_id = given.get("run_id") or known_run_id(environment)
    if chooses_data:
        return None
    experiment = given.get("experiment") or "*"
    if run_id is None:
        newest = newest_run(root, experiment)
        require(newest is not None, f"resume: no run in {root} has a checkpoint; leave --resume out to begin one")
        return newest
    found = sorted(root.glob(f"{experiment}/{run_id}"))
    require(len(found) < 2, f"{len(found)} runs are named {run_id!r}: {', '.join(map(str, found[:2]))}; name a folder")
    return found[0] if found else None


def require_new(choice: Choice, checkpoints: Path, environment: Mapping[str, str]) -> None:
    """Refuse a new run in a folder that holds the checkpoints of another.

    Args:
        choice: the run.
        checkpoints: folder of its checkpoints.
        environment: variables of the process.

    Raises:
        InputError: the run exists.
    """
    of_another = choice.checkpoint is not None and run_of_checkpoint(choice.checkpoint) != choice.folder.absolute()
    if (choice.begins or (of_another and not restarted(environment))) and any(checkpoints.glob("*.ckpt")):
        raise InputError(
            f"the run {choice.folder} exists; resume it with --resume {choice.folder}, or choose another --run_id"
        )


def known_run_id(environment: Mapping[str, str]) -> str | None:
    """Return the id that the environment gives to this run, the same for all its processes and restarts.

    In this order: one that was set before (also by the parent process), that of a W&B sweep, SLURM's job, torchrun's.

    Args:
        environment: variables of the process.

    Raises:
        InputError: torchrun runs on several nodes, and nothing names the run.
    """
    job = environment.get("SLURM_ARRAY_JOB_ID") or environment.get("SLURM_JOB_ID")
    for name in (ID_VARIABLE, "WANDB_RUN_ID"):
        if name in environment:
            return environment[name]
    if job and "SLURM_PROCID" in environment and environment.get("SLURM_JOB_NAME") not in INTERACTIVE:
        task = environment.get("SLURM_ARRAY_TASK_ID")
        return f"slurm-{job}" if task is None else f"slurm-{job}-{task}"
    if "TORCHELASTIC_RUN_ID" in environment:
        run_id = environment["TORCHELASTIC_RUN_ID"]
        if run_id == "none" and environment.get("GROUP_WORLD_SIZE", "1") == "1":
            # torchrun's folder of this start: it has a name of its own, which all workers and restarts share
            run_id = Path(environment.get("TORCHELASTIC_ERROR_FILE", "none/0/0/0")).parents[2].name
        if run_id == "none":
            raise InputError("this run needs a name that all its nodes know: torchrun --rdzv_id NAME, or --run_id NAME")
        return f"torchrun-{run_id}"
    return None


def new_run_id() -> str:
    """Draw the id of a new run, which begins with the time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"


def restarted(environment: Mapping[str, str]) -> bool:
    """Return whether SLURM or torchrun has started this run before."""
    return any(environment.get(name, "0") != "0" for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def config_of(run: Path) -> Path | None:
    """Return the file of a run's configuration, or None if it has none yet."""
    path = run / CONFIG_NAME
    return path if path.is_file() else None
