"""What a path leads to, found out without opening it: a pipe would wait for its other end, a device may do anything."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

_KINDS = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISCHR, "device"),
)


def kind_of(path: str | Path) -> str:
    """Return ``file``, ``folder``, ``pipe``, ``socket`` or ``device``, links followed; or why nothing can be there.

    Example:
        >>> kind_of(os.curdir), kind_of(os.devnull), kind_of("a" * 300)
        ('folder', 'device', 'file name too long')
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        return (getattr(error, "strerror", None) or str(error)).lower()
    return next((kind for belongs, kind in _KINDS if belongs(mode)), "device")


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a file for reading, and nothing but a file.

    Raises:
        OSError: there is no such file, it cannot be read, or it is something else.
    """
    kind = kind_of(path)
    if kind != "file":
        raise OSError(f"it is a {kind}" if kind in {name for _, name in _KINDS} else kind)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # something else may lie there by now
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a file any more")
    return os.fdopen(descriptor, "rb")
