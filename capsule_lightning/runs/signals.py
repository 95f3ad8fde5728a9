"""Signals that end a run: Ctrl-C, a scheduler's warning, a polite kill.

A handler may run in the middle of anything, also between the two halves of what all processes do together. So in
training it only takes note; the processes agree on it after a step, save, and leave. Elsewhere nothing is lost by
leaving at once.
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
"""Names of SLURM jobs in which a person types commands: what they start are no tasks of the job."""
LEAVE = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send. SIGUSR1, a while before the time is up, asks for the job to be queued again."""


class Interrupted(SystemExit):
    """The run was left because of a signal, its state saved.

    Args:
        number: of the signal. Where it asks for another turn the status is 0, else the shell's 128 + number. Only the
            first process says so: the others' part is done well, and whoever started them should not think otherwise.
    """

    def __init__(self, number: int, first_process: bool = True) -> None:
        self.number = signal.Signals(number)
        super().__init__(0 if number == signal.SIGUSR1 or not first_process else 128 + number)


class Signals:
    """Takes note of signals while training, and leaves at once when not.

    Attributes:
        received: the signal of which note was taken; None before there is one.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def leave_at_once(self) -> None:
        """From here on, a signal ends the process by an exception."""
        self._handle(LEAVE, self._leave)
        self._handle((signal.SIGINT,), signal.default_int_handler)

    def take_note(self) -> None:
        """From here on, a signal only sets ``received``; a second Ctrl-C ends the process at once."""
        self.received = None
        self._handle((*LEAVE, signal.SIGINT), self._note)

    def ignore(self) -> None:
        """From here on, no signal that ends a run has an effect: the process is on its way out."""
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
        self.received = self.received or number  # SIGTERM often follows what asks for another turn

    def _leave(self, number: int, frame: FrameType | None) -> None:
        self.ignore()
        raise Interrupted(number, rank() == 0)


SIGNALS = Signals()
"""Of this process: it has one set of handlers."""


def announce(message: str) -> None:
    """Print a message from within a signal handler.

    A thread prints it, because the handler may have interrupted the very code that prints, or that draws a progress bar
    and holds its locks. While a bar of rich is shown, ``sys.stderr`` is its, and lets the message pass above the bar.
    """
    threading.Thread(target=print, args=(message,), kwargs={"file": sys.stderr, "flush": True}, daemon=True).start()


def rank() -> int:
    """Of this process among those of the run, as whoever started it says."""
    variables = os.environ
    if "RANK" in variables:
        return int(variables["RANK"])
    if "SLURM_PROCID" in variables and variables.get("SLURM_JOB_NAME") not in INTERACTIVE:
        return int(variables["SLURM_PROCID"])
    return max(int(variables.get(name, 0)) for name in ("LOCAL_RANK", "NODE_RANK"))  # the first of the first node is 0


def requeue() -> bool:
    """Put this SLURM job into the queue again; outside a job, nothing. Whether that was done, or not called for."""
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
        print(f"that failed ({error}); go on by hand: scontrol requeue {job}, or fit --resume", file=sys.stderr)
        return False
    return True


def end_with_parent() -> None:
    """End this process soon after the one that started it: it would wait for its messages for half an hour."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
