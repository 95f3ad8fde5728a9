"""The program in processes that start in a moment, since they inherit its imports, and that can be killed."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from capsule_lightning.cli import main

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["forked", "capsule_lightning.cli.training", "scipy.io", "sklearn.model_selection"])


def start(
    cwd: Path, *words: str, env: dict[str, str] | None = None, first: Callable[..., None] | None = None
) -> ForkServerProcess:
    """Begin a run; ``first`` is called in its process before it, to do harm later. Output goes to ``output.txt``."""
    process = _SERVER.Process(target=_run, args=(str(cwd), words, env or {}, first))
    process.start()
    return process


def run(cwd: Path, *words: str, env: dict[str, str] | None = None, first: Callable[..., None] | None = None) -> int:
    """A whole run, to its end; its status."""
    process = start(cwd, *words, env=env, first=first)
    process.join(300)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def _run(cwd: str, words: tuple[str, ...], env: dict[str, str], first: Callable[..., None] | None) -> None:
    os.chdir(cwd)
    for name in list(os.environ):
        if name.startswith(("WANDB", "CAPSULE_LIGHTNING", "SLURM", "PL_")):
            del os.environ[name]
    os.environ.update({"WANDB_MODE": "disabled", "HOME": cwd, "COLUMNS": "200", **env})
    torch.set_num_threads(1)
    log = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["capsule_lightning", *words]
    if first is not None:
        first()
    main(words)


def wait_for(what: Callable[[], bool], process: ForkServerProcess, seconds: float = 120) -> None:
    """Until something holds; fails where the process ends before."""
    end = time.monotonic() + seconds
    while not what():
        assert process.is_alive(), "the run has ended too early"
        assert time.monotonic() < end, "this never happens"
        time.sleep(0.002)
