"""The program in processes that start in a moment: `fork_server` forks them from one that has imported everything."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from environment import clean_environment
from fork_server import Forked

from capsule_lightning.cli import main

_begun: list[Forked] = []


def start(
    cwd: Path, *words: str, env: dict[str, str] | None = None, first: Callable[..., None] | None = None
) -> Forked:
    """Begin a run without W&B, whose output goes to ``output.txt``.

    Args:
        cwd: folder in which it runs.
        words: command line.
        env: variables added to `clean_environment`.
        first: called in the new process before the run, to do harm later.
    """
    environment = {**clean_environment(cwd), "WANDB_MODE": "disabled", **(env or {})}
    output = str(cwd / "output.txt")
    return _fork(str(cwd), words, environment, (output, output), first)


def run(cwd: Path, *words: str, env: dict[str, str] | None = None, first: Callable[..., None] | None = None) -> int:
    """Run to the end, as `start` does, and return the status."""
    process = start(cwd, *words, env=env, first=first)
    process.join(300)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def ranks(cwd: Path, processes: int, *words: str, first: Callable[..., None] | None = None) -> list[int]:
    """Run the program in several processes that train together, as torchrun starts them, and return their statuses.

    Their output goes to ``output.txt``; ``first`` is called in each before the run.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": f"forked-{port}",
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes)),
        **dict.fromkeys(("GROUP_RANK", "TORCHELASTIC_RESTART_COUNT"), "0"),
    }
    trainer = ("--trainer.accelerator=cpu", "--trainer.strategy=ddp", f"--trainer.devices={processes}")
    started = [
        start(cwd, words[0], *trainer, *words[1:], env={**together, "RANK": str(n), "LOCAL_RANK": str(n)}, first=first)
        for n in range(processes)
    ]
    for process in started:
        process.join(300)
    return [-1 if process.exitcode is None else process.exitcode for process in started]


def complete(
    cwd: Path, words: tuple[str, ...], environment: dict[str, str], timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run to the end as `subprocess.run` would, with standard output and error captured, and return all three.

    Raises:
        subprocess.TimeoutExpired: it has not ended in time, and was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder, "stdout"), Path(folder, "stderr")
        process = _fork(str(cwd), words, environment, (str(streams[0]), str(streams[1])), None)
        process.join(timeout)
        late = process.exitcode is None
        if late:
            process.kill()
            process.join()
        output, errors = (stream.read_text() if stream.exists() else "" for stream in streams)
        if late:
            raise subprocess.TimeoutExpired(words, timeout, output, errors)
    return subprocess.CompletedProcess(words, process.exitcode, output, errors)


def call(cwd: Path, function: Callable[[], None]) -> int:
    """Call a function to its end, as `start` runs the program, and return the status of its process."""
    output = str(cwd / "output.txt")
    process = _fork(str(cwd), (), {**clean_environment(cwd), "WANDB_MODE": "disabled"}, (output, output), function)
    process.join(300)
    assert process.exitcode is not None, "the function hangs"
    return process.exitcode


def cpu_seconds() -> float:
    """Return the processor time of the processes that have ended."""
    return sum(end.cpu_seconds for process in _begun if (end := process.join(0)))


def _fork(
    cwd: str,
    words: tuple[str, ...],
    environment: dict[str, str],
    streams: tuple[str, str],
    first: Callable[..., None] | None,
) -> Forked:
    files = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666) for path in streams]
    files.insert(0, os.open(os.devnull, os.O_RDONLY))
    try:
        process = Forked(_run, (cwd, words, environment, first), (files[0], files[1], files[2]))
    finally:
        for file in files:
            os.close(file)
    _begun.append(process)
    return process


def _run(
    cwd: str,
    words: tuple[str, ...],
    environment: dict[str, str],
    first: Callable[..., None] | None,
) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = ["capsule_lightning", *words]
    sys.path.insert(0, cwd)  # as `python -m` does
    sys.modules["__main__"].__spec__ = find_spec("capsule_lightning.__main__")  # how ddp starts further processes
    if first is not None:
        first()
    if words:
        main(words)


def wait_for(what: Callable[[], bool], process: Forked, seconds: float = 120) -> None:
    """Wait until something holds; fail if the process ends before."""
    end = time.monotonic() + seconds
    while not what():
        assert process.is_alive(), "the run has ended too early"
        assert time.monotonic() < end, "this never happens"
        time.sleep(0.002)
