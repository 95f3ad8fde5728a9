"""Signals that end a run: Ctrl-C, a scheduler's warning, a polite kill.

A handler may run in the middle of anything, also while only some of the processes have begun what all do together. So
in training it only notes the signal; the processes agree on it after a step, save, and leave. Elsewhere nothing is lost
by leaving at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

INTERACTIVE = ("bash", "interactive")
"""Names of SLURM jobs in which a person types commands: what they start is not a task of the job."""
LEAVE = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that schedulers send. SIGUSR1, sent a while before the time is up, asks to queue the job again."""


class Interrupted(SystemExit):
    """The run was left because of a signal, its state saved.

    Args:
        number: number of the signal. If it asks to queue the job again the exit status is 0, else the shell's
            128 + number.
        first_process: whether this is the first process. The others exit with status 0: their part is done, and what
            started them should not take them for failed.
    """

    def __init__(self, number: int, first_process: bool = True) -> None:
        self.number = signal.Signals(number)
        super().__init__(0 if number == signal.SIGUSR1 or not first_process else 128 + number)


class Signals:
    """Handlers of signals, which note them in training and end the process at once elsewhere.

    Attributes:
        received: the signal that was noted; None before there is one.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def leave_at_once(self) -> None:
        """Let signals end the process by an exception from here on."""
        self._handle(LEAVE, self._leave)
        self._handle((signal.SIGINT,), signal.default_int_handler)

    def take_note(self) -> None:
        """Let signals only set ``received`` from here on; a second Ctrl-C ends the process at once."""
        self.received = None
        self._handle((*LEAVE, signal.SIGINT), self._note)

    def ignore(self) -> None:
        """Ignore the signals of schedulers from here on: the process is about to end."""
        self._handle(LEAVE, signal.SIG_IGN)

    def _handle(self, numbers: tuple[signal.Signals, ...], handler: signal._HANDLER) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
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
"""The handlers of this process."""


def announce(message: str) -> None:
    """Print a message from within a signal handler.

    A thread prints it, because the handler may have interrupted the very code that prints, or that draws a progress bar
    and holds its locks. While a bar of rich is shown, ``sys.stderr`` is its, and lets the message pass above the bar.
    """
    threading.Thread(target=print, args=(message,), kwargs={"file": sys.stderr, "flush": True}, daemon=True).start()


def rank() -> int:
    """Return the rank of this process in the run, from the environment variables of the launcher."""
    variables = os.environ
    if "RANK" in variables:
        return int(variables["RANK"])
    if "SLURM_PROCID" in variables and variables.get("SLURM_JOB_NAME") not in INTERACTIVE:
        return int(variables["SLURM_PROCID"])
    return max(int(variables.get(name, 0)) for name in ("LOCAL_RANK", "NODE_RANK"))  # the first of the first node is 0


def requeue() -> bool:
    """Queue this SLURM job again, if this process is the first of one; return False if that failed."""
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


def end_with_parent() -> None:
    """End this process soon after the one that started it, whose messages it would await for half an hour."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
