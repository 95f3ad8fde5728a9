"""Run a study, each of its runs in a process of its own that can be interrupted and resumed.

Importing torch takes longer than a small run. So each run's process is forked from a server that has imported the
package and done nothing else: `multiprocessing` with ``forkserver``. If the study is killed, its processes end at once,
so that none keeps running unseen.
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
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running, set_forkserver_preload
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from capsule_lightning.comparison.formats import format_metric
from capsule_lightning.comparison.runs import METRIC
from capsule_lightning.comparison.study import Study, Trial
from capsule_lightning.errors import InputError
from capsule_lightning.runs.files import read_metrics, write_whole
from capsule_lightning.runs.folders import CONFIG_NAME, lock_run, unlock_run
from capsule_lightning.shipped import PROGRAM

COMMAND, OUTPUT = "command.txt", "output.txt"
PRELOADED = (
    "capsule_lightning.comparison.study_server",
    "wandb.sdk.launch",  # see `import_before_torch`
    "capsule_lightning.comparison.study_processes",
    "capsule_lightning.cli.training",
    "sklearn.model_selection",
)
PASSED_ON = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}
"""Signals that stop a study, and the signal each one is forwarded as: runs handle SIGINT and SIGTERM."""
NOT_FOR_THE_SERVER = (signal.SIGTERM, signal.SIGHUP)  # it ignores Ctrl-C by itself


def run_study(
    study: Study,
    root: Path,
    console: Console,
    fit: Callable[[Sequence[str]], None],
    check: Callable[[Sequence[Sequence[str]]], str | None],
) -> tuple[list[Path], int]:
    """Train every run that is not finished, and resume those that were interrupted.

    Args:
        study: the study.
        root: folder of all experiments.
        console: where progress is reported: a bar on a terminal, otherwise one line for each run.
        fit: the program, called with the words of one run in a process of its own; a function of a module.
        check: called in such a process with the words of one run of each choice; says why one would be refused.

    Returns:
        Folders of the runs that have started, and the exit status: 1 if a run failed.

    Raises:
        InputError: a choice would be refused, runs of these names were made by other commands, another study is running
            in the folder, or the folder cannot be written.
        SystemExit: after a signal, with 128 + its number, once all runs have saved and left; with 1 if all runs failed.
    """
    trials = {root / study.experiment / trial.run_id: trial for trial in study.trials()}
    require_same_commands(study, trials)
    if not all(map(is_finished, trials)):
        require_accepted(study, check)
    try:
        lock_run(root / study.experiment)
    except InputError as error:
        raise InputError(f"another study is running: {str(error).split(';')[0]}; wait until it ends") from error
    except OSError as error:
        raise InputError(f"{root / study.experiment}: cannot be written ({error.strerror}); choose another") from error
    try:
        due = [folder for folder in trials if not is_finished(folder)]
        console.print(
            f"{len(trials)} runs in {root / study.experiment}, {len(trials) - len(due)} of them done", markup=False
        )
        runner = StudyRunner(study, trials, root, console, fit, done=len(trials) - len(due))
        with runner.forward_signals():
            if due:
                start_server()
            runner.run(due)
    finally:
        unlock_run()
    for line in runner.failed:
        console.print(f"failed: {line}", markup=False, soft_wrap=True)
    if runner.received is not None:
        left = sum(not is_finished(folder) for folder in trials)
        usual = f"python -m {PROGRAM} compare {shlex.quote(str(root))} --config {shlex.quote(study.path)}"
        usual += f" --fit {shlex.quote(study.more)}" if study.more else ""
        again = study.again or usual
        console.print(
            f"stopped with {left} of {len(trials)} runs to do; resume with: {again}", markup=False, soft_wrap=True
        )
        raise SystemExit(128 + runner.received)
    if not any(map(is_finished, trials)):
        raise SystemExit(1)
    return [folder for folder in trials if (folder / CONFIG_NAME).is_file()], int(bool(runner.failed))


def require_same_commands(study: Study, trials: dict[Path, Trial]) -> None:
    """Refuse runs that have the names of the study's runs but were trained by another command.

    Raises:
        InputError: such a run exists; with both commands.
    """
    for folder, trial in trials.items():
        record = folder / COMMAND
        before = record.read_text().strip() if record.is_file() else "something else"
        if (folder / CONFIG_NAME).is_file() and before != trial.command:
            raise InputError(
                f"{folder}: was made by {before}, but {study.path} now asks for {trial.command}; give the study "
                "another experiment, or move the folder away"
            )


def require_accepted(study: Study, check: Callable[[Sequence[Sequence[str]]], str | None]) -> None:
    """Refuse a study one of whose choices would be refused; a process that has imported everything is asked.

    Raises:
        InputError: with what the program says to that choice.
    """
    trials = study.trials()
    choices = [trial.words for trial in trials[: len(trials) // len(study.seeds)]]
    start_server()
    server = multiprocessing.get_context("forkserver")
    answers, answer = server.Pipe(duplex=False)
    asked = server.Process(target=_answer, args=(check, choices, answer))
    asked.start()
    answer.close()
    try:
        refusal = answers.recv()
    except EOFError:  # it was killed; a run will say why
        refusal = None
    asked.join()
    if refusal is not None:
        raise InputError(f"{study.path}: {refusal}")


def _answer(
    check: Callable[[Sequence[Sequence[str]]], str | None], choices: list[list[str]], answer: Connection
) -> None:
    answer.send(check(choices))


def is_finished(folder: Path) -> bool:
    """Return whether a run was trained and tested."""
    history, _ = read_metrics(folder / "metrics.csv")
    return (folder / CONFIG_NAME).is_file() and any(metric.startswith("test/") for metric in history)


class StudyRunner:
    """Processes of a study.

    Args:
        study: the study.
        trials: each trial by the folder of its run.
        root: folder of all experiments.
        console: where progress is reported.
        fit: the program.
        done: number of runs that are finished already.

    Attributes:
        failed: name of each run that failed, with the last line of its output.
        received: the signal that asked the study to stop; None before there is one.
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
        self._untold = 0  # signals that have not been forwarded to the runs yet
        self._running: dict[int, tuple[ForkServerProcess, Path, float]] = {}  # by slot, with its start time

    @contextmanager
    def forward_signals(self) -> Iterator[None]:
        """Forward signals that stop the study to its runs: each has a process group of its own, and so gets them once.

        Yields:
            Nothing; at the end the former handlers are back.
        """

        def pass_on(number: int, frame: FrameType | None) -> None:
            self.received = signal.Signals(number)
            self._untold += 1

        heeded = [number for number in PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        before = {number: signal.signal(number, pass_on) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, due: Sequence[Path]) -> None:
        """Train runs until all are done, or until a signal has come and the running ones have left."""
        waiting = list(reversed(due))
        clocks = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *clocks)
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
        write_whole(folder / COMMAND, f"{trial.command}\n")
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
        """Forward each signal to each run once; not in the handler, which may run while a process is being started."""
        while self._untold and self.received is not None:
            self._untold -= 1
            for process, _, _ in self._running.values():
                if process.pid is not None and process.exitcode is None:
                    os.kill(process.pid, PASSED_ON[self.received])

    def _end(self, status: int, folder: Path, seconds: float) -> None:
        if is_finished(folder):
            self._done += 1
            history, _ = read_metrics(folder / "metrics.csv")
            score = history.get(METRIC, {})
            said = f"{METRIC} {format_metric(METRIC, score[max(score)])}, " if score else ""
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
    """Start the process that runs are forked from, unless it exists.

    It reports how runs ended, so it has to outlive a signal that goes to all processes of a job.
    """
    set_forkserver_preload(list(PRELOADED))
    before = {number: signal.signal(number, signal.SIG_IGN) for number in NOT_FOR_THE_SERVER}
    try:
        ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(path: Path) -> str:
    """Return the last line of a file that is not empty; "it said nothing" if there is none."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def run_trial(
    fit: Callable[[Sequence[str]], None], words: list[str], output: str, threads: int, device: str | None
) -> None:
    """Train one run in a process that the server has forked.

    Args:
        fit: the program.
        words: words of the command line.
        output: file to which the output is appended.
        threads: threads for torch, unless ``OMP_NUM_THREADS`` is set.
        device: value of ``CUDA_VISIBLE_DEVICES``; None to leave it alone.
    """
    for number in NOT_FOR_THE_SERVER:
        signal.signal(number, signal.SIG_DFL)
    # a terminal sends Ctrl-C to the study alone, which forwards it: a run that got it twice would stop at once
    os.setpgid(0, 0)
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
    # ddp starts the other processes of the run by it
    sys.modules["__main__"].__spec__ = find_spec(f"{PROGRAM}.__main__")
    fit(words)


def end_with_study() -> None:
    """End this process as soon as the study ends, in whatever way: it would keep running unseen."""
    study = multiprocessing.parent_process()
    if study is None:
        return

    def watch() -> None:
        study.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="study-watch").start()
