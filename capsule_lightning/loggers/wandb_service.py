"""W&B's core process: how it is started, and how to end it when it hangs.

`wandb.init` starts a program, ``wandb-core``, that writes to disk and talks to the server. Calls of W&B wait for its
answers without a limit, so a core process that hangs stops the training with it. W&B limits two of its waits by public
settings, ``init_timeout`` and ``finish_timeout``; those are of the server, not of the core process. There is no public
way to end a core process that hangs or to learn that it has died. The issue to wait for is a time limit for
`wandb.finish`, https://github.com/wandb/wandb/issues/6949, open at 0.31.

So the core process is found by its name among the children of this process, as a user would find it. And this is the
only file that uses W&B's settings for internal use (``x_...``), which W&B may change with any minor version, and that
clears `wandb.run` when the run behind it cannot be ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wandb import Settings

CORE = "wandb-core"
"""Name of the core process."""
FLUSH_SECONDS = 1.0
"""How often the core process writes to disk what it has; its own default is 15 s."""
PATIENCE = 10.0
"""Seconds that the core process may take for what needs no server, and beyond the timeouts for what does."""
OUTPUT_VARIABLES = ("WANDB_QUIET", "WANDB_SILENT")
"""Where a user may have said how much W&B prints."""


class Process(NamedTuple):
    """One line of the table of processes.

    Attributes:
        number: id of the process.
        parent: id of the process that started it.
        state: its state, one letter; Z when it has ended and its parent has not noticed.
        name: name of its program, without the folder.
    """

    number: int
    parent: int
    state: str
    name: str


def import_before_torch() -> None:
    """Import the part of W&B that every run imports as it begins, while few modules are there.

    That part reads the source of its own classes, by a function of Python that looks through all modules: 0.2 s before
    torch and Lightning are imported, and 1.5 s after. Whatever fails here, the logger says later, if the run has one.
    """
    with suppress(Exception):
        import wandb.sdk.launch  # noqa: F401


def start_core(timeout: float) -> None:
    """Start the core process, unless it is there.

    Args:
        timeout: seconds that it may take.
    """
    # W&B would send reports of its own errors to its server, and wait for that when the process exits.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    # The account's name is only printed, and W&B asks the server for it three times, 5 s each.
    wandb.setup(wandb.Settings(x_disable_viewer=True, x_service_wait=timeout))


def run_settings(init_timeout: float, finish_timeout: float, offline: bool) -> Settings:
    """Return the settings of a run, with little printed unless the user's environment asks for more.

    Args:
        init_timeout: seconds that the server has to answer at the start.
        finish_timeout: seconds that an upload may take at the end.
        offline: whether the run is only written to disk; W&B then has nothing to tell that the logger does not.
    """
    import wandb

    settings = wandb.Settings(
        init_timeout=init_timeout,
        finish_timeout=finish_timeout,
        finish_timeout_raises=True,
        x_transaction_log_flush_interval=FLUSH_SECONDS,
    )
    if not any(variable in os.environ for variable in OUTPUT_VARIABLES):
        settings.quiet, settings.silent = True, offline
    return settings


def core() -> int | None:
    """Return the id of the living core process that this process has started, or None if there is none."""
    own = os.getpid()
    found = (each for each in processes() if each.parent == own and each.name == CORE and each.state not in "ZX")
    return next((each.number for each in found), None)


def processes() -> Iterator[Process]:
    """Yield all processes of this machine."""
    folder = Path("/proc")
    if (folder / "self" / "stat").is_file():
        for entry in os.scandir(folder):
            if entry.name.isdigit():
                with suppress(OSError):  # it has ended meanwhile
                    before, _, after = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")
                    state, parent, *_ = after.split()
                    yield Process(int(entry.name), int(parent), state, before.partition("(")[2])
        return
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat=,comm="], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        number, parent, state, name = line.split(maxsplit=3)
        yield Process(int(number), int(parent), state[0], Path(name).name)


@contextmanager
def core_ended_after(seconds: float) -> Iterator[None]:
    """Kill the core process if the block takes longer, so that whatever waits for it fails at once."""

    def end() -> None:
        number = core()
        if number is not None:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def abandon() -> None:
    """Forget W&B's run and core process, so that a run of the same id can begin and nothing waits at the exit."""
    wandb = sys.modules.get("wandb")
    if wandb is None:
        return
    with core_ended_after(PATIENCE):
        if wandb.run is not None:
            with suppress(Exception):
                wandb.run.finish(1)
            wandb.run = None  # type: ignore[attr-defined]  # W&B keeps it if the core process is dead
        with suppress(Exception):
            wandb.teardown()
