"""Run a study: each of its runs in a process of its own, which can be cut and resumes.

Importing torch takes longer than a small run. So the processes are forked, one a run, from a server that has imported
the package and done nothing else; Python's own, `multiprocessing` with ``forkserver``. A process ends at once where the
study is killed, so that none goes on unseen.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running, set_forkserver_preload
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from capsule_lightning.comparison.runs import METRIC, read_metrics
from capsule_lightning.comparison.study import Study, Trial
from capsule_lightning.comparison.tables import shown
from capsule_lightning.errors import InputError
from capsule_lightning.runs.folders import CONFIG_NAME, hold, let_go
from capsule_lightning.shipped import PROGRAM

COMMAND, OUTPUT = "command.txt", "output.txt"
PRELOADED = (
    "capsule_lightning.comparison.study_processes",
    "capsule_lightning.cli.training",
    "scipy.io",
    "sklearn.model_selection",
)
PASSED_ON = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}
"""What ends a study, and what its runs are told: they know what to do at SIGINT and SIGTERM."""
NOT_FOR_THE_SERVER = (signal.SIGTERM, signal.SIGHUP)  # of Ctrl-C it takes no notice by itself


def run_study(
    study: Study, root: Path, console: Console, fit: Callable[[Sequence[str]], None]
) -> tuple[list[Path], int]:
    """Make every run that is not finished, and go on with those that were cut.

    Args:
        study: as read.
        root: of all experiments.
        console: says what happens: a bar on a terminal, a line a run elsewhere.
        fit: the program, called with the words of one run in a process of its own; a function of a module.

    Returns:
        Folders of the runs that have begun at all, and the status: 1 where a run failed.

    Raises:
        InputError: runs of these names were made by other commands, another study is at work in the folder, or it
            cannot be written.
        SystemExit: on a signal, with 128 + its number, when all runs have saved and left; with 1 where all failed.
    """
    trials = {root / study.experiment / trial.run_id: trial for trial in study.trials()}
    require_same_commands(study, trials)
    try:
        hold(root / study.experiment)
    except InputError as error:
        raise InputError(f"another study is at work: {str(error).split(';')[0]}; wait for its end") from error
    except OSError as error:
        raise InputError(f"{root / study.experiment}: cannot be written ({error.strerror}); choose another") from error
    try:
        due = [folder for folder in trials if not finished(folder)]
        console.print(
            f"{len(trials)} runs in {root / study.experiment}, {len(trials) - len(due)} of them done", markup=False
        )
        runner = StudyRunner(study, trials, root, console, fit, done=len(trials) - len(due))
        with runner.passing_signals_on():
            if due:
                start_server()
            runner.run(due)
    finally:
        let_go()
    for line in runner.failed:
        console.print(f"failed: {line}", markup=False, soft_wrap=True)
    if runner.received is not None:
        left = sum(not finished(folder) for folder in trials)
        again = f"python -m {PROGRAM} compare {shlex.quote(str(root))} --config {shlex.quote(study.path)}"
        console.print(
            f"stopped with {left} of {len(trials)} runs to do; go on with: {again}", markup=False, soft_wrap=True
        )
        raise SystemExit(128 + runner.received)
    if not any(map(finished, trials)):
        raise SystemExit(1)
    return [folder for folder in trials if (folder / CONFIG_NAME).is_file()], int(bool(runner.failed))


def require_same_commands(study: Study, trials: dict[Path, Trial]) -> None:
    """Refuse to take for runs of a study what has its names and was trained otherwise.

    Raises:
        InputError: as said.
    """
    for folder, trial in trials.items():
        record = folder / COMMAND
        before = record.read_text().strip() if record.is_file() else "something else"
        if (folder / CONFIG_NAME).is_file() and before != trial.command:
            raise InputError(
                f"{folder}: was made by {before}, and {study.path} now says {trial.command}; give the study another "
                "experiment, or move the folder away"
            )


def finished(folder: Path) -> bool:
    """Whether a run was trained and tested."""
    history, _ = read_metrics(folder / "metrics.csv")
    return (folder / CONFIG_NAME).is_file() and any(metric.startswith("test/") for metric in history)


class StudyRunner:
    """The processes of a study.

    Args:
        study: as read.
        trials: by the folder of the run.
        root: of all experiments.
        console: says what happens.
        fit: the program.
        done: runs that need nothing more.

    Attributes:
        failed: name of each run that failed, with the last line of what it said.
        received: the signal that asked the study to end; None before there is one.
    """

    def __init__(
        self,
        study: Study,
        trials: dict[Path, Trial],
        root: Path,
        console: Console,
        fit: Callable[[Sequence[str]], None],
        done: int,
    ) -> None:
        self.failed: list[str] = []
        self.received: signal.Signals | None = None
        self._study, self._trials, self._root, self._console = study, trials, root, console
        self._fit, self._done = fit, done
        self._untold = 0  # signals that the runs have not been given yet
        self._running: dict[int, tuple[ForkServerProcess, Path, float]] = {}  # by slot, with the time of the start

    @contextmanager
    def passing_signals_on(self) -> Iterator[None]:
        """Signals that end the study go to its runs, which are in process groups of their own, and so get them once."""

        def pass_on(number: int, frame: FrameType | None) -> None:
            self.received = signal.Signals(number)
            self._untold += 1

        heeded = [number for number in PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores one
        before = {number: signal.signal(number, pass_on) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, due: Sequence[Path]) -> None:
        """Make runs until all are made, or a signal has come and those at work have left."""
        waiting = list(reversed(due))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bar:
            shown_task = bar.add_task("", total=len(self._trials), completed=self._done)
            while self._running or (waiting and self.received is None):
                for slot in range(self._study.jobs):
                    if slot not in self._running and waiting and self.received is None:
                        self._start(slot, waiting.pop())
                self._tell()
                names = ", ".join(folder.name for _, folder, _ in self._running.values())
                bar.update(shown_task, description=names, completed=self._done)
                wait([process.sentinel for process, _, _ in self._running.values()], timeout=0.2)
                for slot, (process, folder, since) in list(self._running.items()):
                    if process.exitcode is not None:
                        del self._running[slot]
                        self._end(process.exitcode, folder, time.monotonic() - since)

    def _start(self, slot: int, folder: Path) -> None:
        trial, devices = self._trials[folder], self._study.devices
        folder.mkdir(parents=True, exist_ok=True)
        (folder / COMMAND).write_text(f"{trial.command}\n")
        server = multiprocessing.get_context("forkserver")
        words = [*trial.words, "--runs", str(self._root), "--resume"]
        device = devices[slot % len(devices)] if devices else None
        threads = max(1, (os.cpu_count() or 1) // self._study.jobs)
        process = server.Process(
            target=run_trial, args=(self._fit, words, str(folder / OUTPUT), threads, device), name=trial.run_id
        )
        process.start()
        self._running[slot] = (process, folder, time.monotonic())

    def _tell(self) -> None:
        """Give each signal to each run once; not where it comes, which may be in the middle of starting one."""
        while self._untold and self.received is not None:
            self._untold -= 1
            for process, _, _ in self._running.values():
                if process.pid is not None and process.exitcode is None:
                    os.kill(process.pid, PASSED_ON[self.received])

    def _end(self, status: int, folder: Path, seconds: float) -> None:
        if finished(folder):
            self._done += 1
            history, _ = read_metrics(folder / "metrics.csv")
            score = history.get(METRIC, {})
            said = f"{METRIC} {shown(METRIC, score[max(score)])}, " if score else ""
            line = f"[{self._done}/{len(self._trials)}] {folder.name}: {said}{seconds:.0f} s"
        elif self.received is not None:
            line = f"{folder.name}: left"
        else:
            how = (
                f"killed by {signal.Signals(-status).name}; " if status < 0 else "" if status else "it was not tested; "
            )
            self.failed.append(f"{folder.name} (status {status}): {how}{last_line(folder / OUTPUT)}")
            line = f"{folder.name}: failed, see {folder / OUTPUT}"
        self._console.print(line, markup=False, soft_wrap=True)


def start_server() -> None:
    """Start the process that runs are forked from, where it is not there yet.

    It tells how they ended, so it has to outlast a signal that goes to all processes of a job.
    """
    set_forkserver_preload(list(PRELOADED))
    before = {number: signal.signal(number, signal.SIG_IGN) for number in NOT_FOR_THE_SERVER}
    try:
        ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(path: Path) -> str:
    """The last line with anything in it, or that there is none."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def run_trial(
    fit: Callable[[Sequence[str]], None], words: list[str], output: str, threads: int, device: str | None
) -> None:
    """A run in a process that the server has forked.

    Args:
        fit: the program.
        words: of the command line.
        output: file to which all that it says is added.
        threads: for torch, where ``OMP_NUM_THREADS`` says nothing.
        device: value of ``CUDA_VISIBLE_DEVICES``; None to leave it alone.
    """
    for number in NOT_FOR_THE_SERVER:
        signal.signal(number, signal.SIG_DFL)
    os.setpgid(0, 0)  # a terminal sends Ctrl-C to the study alone, which passes it on: twice would mean at once
    end_with_study()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(threads)
    sys.argv = [PROGRAM, *words]
    sys.modules["__main__"].__spec__ = find_spec(f"{PROGRAM}.__main__")  # how ddp starts the other processes of the run
    fit(words)


def end_with_study() -> None:
    """End this process at once where the study does, however that comes: it would go on unseen."""
    study = multiprocessing.parent_process()
    if study is None:
        return

    def watch() -> None:
        study.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="study-watch").start()
