"""Text files, a text in each line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from capsule_lightning.data.regular_files import open_regular
from capsule_lightning.errors import InputError, first_line, require

MOST_BYTES = 2**30
"""Size of the largest text file that is read."""
STANDARD_INPUT = "-"
"""In place of a file: what is typed, or comes through a pipe."""


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Return the lines of a file without their ends, empty ones too.

    Args:
        path: the file; ``-`` for standard input.
        encoding: of the file; a byte order mark of UTF-8 is left out.

    Raises:
        InputError: there is no such file, it is too large, or a line is not text in this encoding.
    """
    lines = decoded(read_bytes(path), path, encoding).split("\n")
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return what a file says, as `read_lines` reads it."""
    return decoded(read_bytes(path), path, encoding)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file or of standard input.

    Raises:
        InputError: there is no such file, or it is too large.
    """
    try:
        if str(path) == STANDARD_INPUT:
            content = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                require(size <= MOST_BYTES, f"{path}: has {size:,} bytes, at most {MOST_BYTES:,} are read; split it")
                content = file.read(MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"{path}: cannot be read ({reason.lower()}); expected a text file") from error
    require(len(content) <= MOST_BYTES, f"{path}: more than {MOST_BYTES:,} bytes; split it")
    return content


def decoded(content: bytes, path: Path, encoding: str = "utf-8") -> str:
    """Return bytes of a file as text.

    Raises:
        InputError: they are not text in this encoding; the line is named.
    """
    try:
        return content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: is not text in {encoding.upper()} ({error.reason} at byte {error.start}); save the "
            "file as UTF-8"
        ) from error
