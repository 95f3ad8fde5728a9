"""One process that has imported everything, from which the workers of pytest and the programs of tests are forked.

Importing torch and Lightning takes longer than most tests. So it is done once, and what was imported is shared memory.
Run as a program, this file takes the place of Python when pytest-xdist starts a worker: it has the server fork one.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

DOOR = "TESTS_FORK_SERVER"
"""Variable of the environment that has the address of the server."""
Streams = tuple[int, int, int]


class End(NamedTuple):
    """How a process has ended."""

    status: int
    """Exit status, or minus the number of the signal that ended it."""
    cpu_seconds: float
    """Processor time, that of its own children included."""


class Forked:
    """A process that the server has forked.

    Args:
        function: called in the process, which ends with it; one of a module.
        arguments: of the function.
        streams: open files that become standard input, output and error.
    """

    def __init__(self, function: Callable[..., None], arguments: tuple[Any, ...], streams: Streams) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(door())
            socket.send_fds(client, [b"."], streams)
            self._connection = Connection(client.detach())
        self._connection.send((function, arguments))
        self.pid: int = self._connection.recv()
        self._end: End | None = None

    def join(self, seconds: float | None = None) -> End | None:
        """Wait for the end, so many seconds or as long as it takes; return ``None`` if it has not come."""
        if self._end is None and self._connection.poll(seconds):
            self._end = self._connection.recv()
            self._connection.close()
        return self._end

    @property
    def exitcode(self) -> int | None:
        """The status, as `End` has it; ``None`` while the process runs."""
        end = self.join(0)
        return end.status if end else None

    def is_alive(self) -> bool:
        """Say whether the process runs."""
        return self.join(0) is None

    def kill(self) -> None:
        """End the process without warning."""
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL)


def door() -> str:
    """Return the address of the server; start one, which lives as long as this process, if nobody has."""
    if DOOR not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="tests-")
        atexit.register(folder.cleanup)
        address = os.environ[DOOR] = str(Path(folder.name, "door"))
        path = os.pathsep.join((str(Path(__file__).parent), *filter(None, sys.path)))
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(address)
            listening.listen(64)  # who comes while it imports waits
            subprocess.Popen(
                [sys.executable, "-c", "from fork_server import serve; serve()", str(listening.fileno())],
                stdin=subprocess.PIPE,  # ends with this process
                pass_fds=[listening.fileno()],
                env={**os.environ, "PYTHONPATH": path},
            )
    return os.environ[DOOR]


def serve() -> None:
    """Import everything, and fork a process for each client, until standard input ends."""
    import preloaded  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for others
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            client, _ = listening.accept()
            with client:
                if os.fork() == 0:
                    listening.close()
                    _answer(client)


def _answer(client: socket.socket) -> NoReturn:
    """Fork the process that a client asks for, and tell the client its number and then its end."""
    streams = socket.recv_fds(client, 1, 3)[1]
    connection = Connection(client.detach())
    function, arguments = connection.recv()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        connection.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _call(function, arguments)
    try:
        for stream in (0, 1, *streams):  # whose other end would not close otherwise
            os.close(stream)
        connection.send(pid)
        _, status, usage = os.wait4(pid, 0)
        connection.send(End(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime))
    finally:
        os._exit(0)


def _call(function: Callable[..., None], arguments: tuple[Any, ...]) -> NoReturn:
    """Call a function, and end the process as Python would."""
    status: object = 1
    try:
        function(*arguments)
        status = None
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))


def work(code: str, folder: str, environment: Mapping[str, str]) -> None:
    """Become a worker of pytest-xdist, which is run by ``python -c``."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c"]
    exec(code, {"__name__": "__main__"})


def stand_in() -> NoReturn:
    """Have a worker forked, to which the standard streams of this process belong, and end as it does."""
    worker = Forked(work, (sys.argv[-1], os.getcwd(), dict(os.environ)), (0, 1, 2))
    os.close(0)
    os.close(1)
    end = worker.join()
    os._exit(end.status % 256 if end else 1)


if __name__ == "__main__":
    import fork_server  # by the name under which the server knows it

    fork_server.stand_in()
