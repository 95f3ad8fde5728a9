"""The program on a terminal of 80 columns, whose screen is read back as a person sees it."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import forked
import pyte

COLUMNS, LINES = 80, 200
CTRL_C = b"\x03"


class Terminal:
    """Runs the program; `text` is what has been on the screen, wrapped at 80 columns.

    Args:
        cwd: the working folder.
        words: words of the command line.
    """

    def __init__(self, cwd: Path, *words: str) -> None:
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        take = partial(take_terminal, os.ttyname(self._slave))
        self._process = forked.start(cwd, *words, env={"WANDB_MODE": "offline", "TERM": "xterm"}, first=take)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip()

    def wait_until(self, seen: Callable[[str], object], timeout: float = 200) -> None:
        """Read until something is on the screen."""
        end = time.monotonic() + timeout
        while not seen(self.text):
            assert time.monotonic() < end, self.text
            assert self._read(), self.text

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self, timeout: float = 200) -> int:
        """Read until the program has ended; gives back its status."""
        end = time.monotonic() + timeout
        while self._read():
            assert time.monotonic() < end, self.text
        os.close(self._master)
        os.close(self._slave)
        assert self._process.exitcode is not None
        return self._process.exitcode

    def _read(self) -> bool:
        """Whether there may be more."""
        ended = self._process.exitcode is not None
        found = select.select([self._master], [], [], 0.1)[0]
        if found:
            self._stream.feed(os.read(self._master, 65536))
        return bool(found) or not ended


def take_terminal(name: str) -> None:
    """Make a terminal that of this process, as a shell does, so that its keys send signals."""
    os.setsid()
    terminal = os.open(name, os.O_RDWR)
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for stream in range(3):
        os.dup2(terminal, stream)
    for file in (sys.stdout, sys.stderr):
        file.reconfigure(line_buffering=True)
    del os.environ["COLUMNS"]
