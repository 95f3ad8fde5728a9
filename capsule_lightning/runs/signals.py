"""Handle the signals that end a run: Ctrl-C, a scheduler's warning, SIGTERM.

A handler may run in the middle of anything, even between two halves of an operation that all processes perform
together. So during training it only notes the signal; after a step the processes agree on it, save and leave. At other
times nothing is lost by leaving at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType

from capsule_lightning.runs.folders import ID_VARIABLE

INTERACTIVE = ("bash", "interactive")
"""Names of SLURM jobs in which a person types commands: the programs they start are not tasks of the job."""
LEAVE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Signals that end a run. SIGUSR1, some time before the time limit, asks to put the job into the queue again; SIGHUP is
sent when the terminal is closed."""


class Interrupted(SystemExit):
    """Leave the run because of a signal, after its state was saved.

    Args:
        number: the signal. The exit status is 0 if it asks for the job to be queued again, otherwise 128 + number, as
            in a shell.
        first_process: whether this is the run's first process. The others end with status 0: they did their part, and
            the program that started them should not take it for a failure.
    """

    def __init__(self, number: int, first_process: bool = True) -> None:
        self.number = signal.Signals(number)
        super().__init__(0 if number == signal.SIGUSR1 or not first_process else 128 + number)


class Signals:
    """Handlers of signals: they note a signal during training, and otherwise leave at once.

    Attributes:
        received: the signal that was noted; None before there is one.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        # as `nohup` has it: the process is to outlive its terminal
        self._deaf = {number for number in LEAVE if signal.getsignal(number) == signal.SIG_IGN}

    def leave_at_once(self) -> None:
        """Let signals end the process by an exception from here on."""
        self._handle(LEAVE, self._leave)
        self._handle((signal.SIGINT,), signal.default_int_handler)

    def take_note(self) -> None:
        """Let signals only set ``received`` from here on; a second Ctrl-C still ends the process at once."""
        self.received = None
        self._handle((*LEAVE, signal.SIGINT), self._note)

    def ignore(self) -> None:
        """Ignore signals that end a run from here on: the process is leaving already."""
        self._handle(LEAVE, signal.SIG_IGN)

    def _handle(self, numbers: tuple[signal.Signals, ...], handler: signal._HANDLER) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in set(numbers) - self._deaf:
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT and rank() == 0:
            announce("\nstopping after this step, with a checkpoint; Ctrl-C again stops at once")
        self.received = self.received or number  # SIGTERM often follows SIGUSR1

    def _leave(self, number: int, frame: FrameType | None) -> None:
        self.ignore()
        raise Interrupted(number, rank() == 0)


SIGNALS = Signals()
"""The handlers of this process, which has only one set of them."""


def announce(message: str) -> None:
    """Print a message from within a signal handler.

    A thread prints it, because the handler may have interrupted the very code that prints, or that draws a progress bar
    and holds its locks. While a bar of rich is shown, ``sys.stderr`` is its, and lets the message pass above the bar.
    """
    threading.Thread(target=print, args=(message,), kwargs={"file": sys.stderr, "flush": True}, daemon=True).start()


def rank() -> int:
    """Return the rank of this process in the run, from the launcher's environment variables."""
    variables = os.environ
    if "RANK" in variables:
        return int(variables["RANK"])
    if "SLURM_PROCID" in variables and variables.get("SLURM_JOB_NAME") not in INTERACTIVE:
        return int(variables["SLURM_PROCID"])
    return max(
        int(variables.get(name, 0)) for name in ("LOCAL_RANK", "NODE_RANK")
    )  # 0 for the first process of the first node


def requeue() -> bool:
    """Put this SLURM job into the queue again; do nothing outside a job or in another process than the first.

    Returns:
        False if it failed.
    """
    variables = os.environ
    job = variables.get("SLURM_JOB_ID")
    if job is None or rank() != 0:
        return True
    if "SLURM_ARRAY_JOB_ID" in variables:
        job = f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"
    print(f"putting job {job} into the queue again", file=sys.stderr, flush=True)
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"that failed ({error}); resume by hand: scontrol requeue {job}, or fit --resume", file=sys.stderr)
        return False
    return True


def is_started_with_others(environment: Mapping[str, str]) -> bool:
    """Return whether torchrun, or the first process of a run, has started this process as one of several."""
    return "LOCAL_RANK" in environment and ("TORCHELASTIC_RUN_ID" in environment or ID_VARIABLE in environment)


def end_with_parent() -> None:
    """End this process soon after its parent.

    If that is killed, nothing else tells this process: under torchrun it would train on unseen, and started by a
    process of its own run it would wait for that one's messages for half an hour.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
