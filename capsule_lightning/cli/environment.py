"""The environment of the program: what others have set is used if it is right, and answered in one line if it is not.

Nothing that is left over in it ends a training or takes its records away: a rank that no launcher has set, a width that
is no number, a drawing back end that is not there, warnings that are made errors, an output that knows no Unicode.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from importlib import import_module

from capsule_lightning.errors import InputError, first_line, require
from capsule_lightning.runs.signals import INTERACTIVE
from capsule_lightning.shipped import PROGRAM

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")
"""What launchers tell a process about its place among the others."""
MARKS = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "SLURM_JOB_ID")
"""Variables of which every launcher sets one: without any, ranks are left over from something else."""
SLURM_RANKS = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE")
RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
NARROWEST = 20
"""Fewest columns in which a table can be read."""


def settle(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Check the environment, and take out of it what is left over from something else.

    Args:
        environment: variables of the process.

    Returns:
        A line for each thing that is not used.

    Raises:
        InputError: a launcher has set something else than a number that fits.
    """
    left_over = [name for name in RANKS if name in environment and not _is_launchers(name, environment)]
    lines = [_dropped(environment, left_over, "no launcher has set that")] if left_over else []
    if "SLURM_PROCID" in environment and "SLURM_JOB_ID" not in environment:
        names = [name for name in SLURM_RANKS if name in environment]
        lines.append(_dropped(environment, names, "there is no SLURM_JOB_ID"))
    require_numbers(environment)
    columns = environment.get("COLUMNS", "")
    if columns and not (re.fullmatch(r"[0-9]{1,5}", columns) and int(columns) >= NARROWEST):
        lines.append(_dropped(environment, ["COLUMNS"], f"expected a number from {NARROWEST} on"))
    environment["MPLBACKEND"] = "agg"  # pictures are files; a back end that draws on screens may not be there
    return lines


def require_numbers(environment: Mapping[str, str]) -> None:
    """Refuse what is no number, or not one that fits the others.

    Raises:
        InputError: the variable, its value and what was expected.
    """
    in_job = "SLURM_JOB_ID" in environment and "TORCHELASTIC_RUN_ID" not in environment
    for name in (*RANKS, *RESTARTS, *(SLURM_RANKS if in_job else ())):
        value = environment.get(name, "0")
        least = 1 if name in ("WORLD_SIZE", "SLURM_NTASKS") and name in environment else 0
        fits = re.fullmatch(r"[0-9]{1,9}", value) is not None and int(value) >= least
        require(fits, f"{name}={value!r}: expected a whole number from {least} on, as launchers set it; unset it")
    seed = environment.get("PL_GLOBAL_SEED", "0")
    fits = re.fullmatch(r"[0-9]{1,10}", seed) is not None and int(seed) < 2**32
    require(fits, f"PL_GLOBAL_SEED={seed!r}: expected 0 to {2**32 - 1}; unset it, --seed_everything chooses the seed")
    rank, size = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
    require(rank < size or "RANK" not in environment, f"RANK={rank}: expected less than WORLD_SIZE={size}; unset both")
    tasks = int(environment.get("SLURM_NTASKS", "1")) if in_job else 1
    is_job = in_job and environment.get("SLURM_JOB_NAME") not in INTERACTIVE
    if is_job and tasks > 1 and "SLURM_NTASKS_PER_NODE" not in environment:
        raise InputError(
            f"SLURM_NTASKS={tasks}: how they are spread over nodes is not said; ask for them by --ntasks-per-node, as "
            "cluster/slurm.sh does, or for one task"
        )


def settle_process() -> list[str]:
    """Let warnings be no errors, the output take every character, and the pictures be drawn as they come.

    Returns:
        A line for each thing that is not used.
    """
    lines = []
    if any(option.split(":")[0] == "error" for option in sys.warnoptions):
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        lines.append("PYTHONWARNINGS or -W makes warnings errors: those of the libraries are shown and end nothing")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # what was written before cannot be flushed, or the file has become another
                stream.reconfigure(errors="backslashreplace")
    return lines


def settle_pictures() -> list[str]:
    """Import matplotlib, without the settings of a ``matplotlibrc`` that it cannot read.

    Returns:
        A line if there is such a file.
    """
    try:
        import_module("matplotlib")
    except Exception as error:
        for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
            del sys.modules[name]
        os.environ["MATPLOTLIBRC"] = os.devnull
        return [f"matplotlibrc is not used ({first_line(error)[:160]})"]
    return []


def say(lines: list[str]) -> None:
    """Print what is not used, each in a line."""
    for line in lines:
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)


def _is_launchers(name: str, environment: Mapping[str, str]) -> bool:
    """Return whether a launcher has set a variable, rather than something that ran before."""
    if not any(mark in environment for mark in MARKS):
        return False
    # torchrun and Kubeflow alone set RANK, and WORLD_SIZE with it
    return name != "RANK" or bool(environment.get("WORLD_SIZE"))


def _dropped(environment: MutableMapping[str, str], names: list[str], why: str) -> str:
    values = ", ".join(f"{name}={environment.pop(name)!r}" for name in names)
    return f"{values} in the environment: not used, {why}"
