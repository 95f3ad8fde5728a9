"""The program on a terminal of 80 columns, whose screen is read back as a person sees it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte
from program import clean_environment

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
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        environment = {**clean_environment(cwd), "TERM": "xterm"}
        del environment["COLUMNS"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "capsule_lightning", *words],
            cwd=cwd,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

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
        return self._process.wait(timeout)

    def _read(self) -> bool:
        """Whether there may be more."""
        if select.select([self._master], [], [], 0.1)[0]:
            try:
                self._stream.feed(os.read(self._master, 65536))
            except OSError:  # the other side is closed
                return False
        return True
