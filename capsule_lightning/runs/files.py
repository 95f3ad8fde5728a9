"""One way to write a file whole, one to read YAML, one to read a run's ``metrics.csv``.

Nothing here imports torch: `compare` answers as fast as the files can be read.
"""

from __future__ import annotations

import codecs
import csv
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from capsule_lightning.errors import InputError, StoppedError, first_line, require
from capsule_lightning.runs.plain_yaml import OPTIONS, parse_yaml

MOST_BYTES = 10 * 2**20
"""Size of the largest YAML file that is read, in bytes."""
_ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@contextmanager
def open_whole(
    path: str | Path,
    *,
    overwrite: bool = True,
    make_folder: bool = False,
    remedy: str = "choose another place",
    error: Callable[[str], Exception] = InputError,
) -> Iterator[IO[bytes]]:
    """Open a file that takes its place only once it is complete and on the disk.

    It is written beside its place and moved there in one step: whatever kills the process or fills the disk, the place
    holds what it held before, or all that was written. A link in the place is replaced, not followed.

    Args:
        path: the place.
        overwrite: replace a file that is there.
        make_folder: make the folder of the place if it does not exist.
        remedy: what to do when the file cannot be written, the end of the message.
        error: the exception to raise when the file cannot be written.

    Yields:
        A binary file.

    Raises:
        InputError: the file cannot be written (or the exception that ``error`` names), or it exists and is to stay.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with open_whole(Path(folder, "a.txt")) as file:
        ...         _ = file.write(b"all of it")
        ...     Path(folder, "a.txt").read_text()
        'all of it'
    """
    path = Path(path)
    partial = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, is_nameless = _open_beside(partial)
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if is_nameless:
                _name(file.fileno(), partial)
        _move(partial, path, overwrite, remedy)
    except (InputError, StoppedError):
        raise
    except (OSError, RuntimeError, ValueError) as failure:
        cause = failure if isinstance(failure, OSError) else failure.__context__  # torch raises another error from it
        if not isinstance(cause, OSError) and "null byte" not in str(failure):
            raise
        reason = getattr(cause, "strerror", None) or first_line(failure)
        raise error(f"{path}: cannot be written ({reason}); {remedy}") from failure
    finally:
        with suppress(OSError, ValueError):
            partial.unlink()


def _open_beside(partial: Path) -> tuple[int, bool]:
    """Open a new file in a folder for writing; without a name where that can be, so that a kill leaves nothing behind.

    Returns:
        Its descriptor, and whether it is without a name.
    """
    with suppress(OSError, AttributeError):  # neither every system nor every file system has them
        descriptor = os.open(partial.parent, os.O_WRONLY | os.O_TMPFILE, 0o666)
        if os.path.exists(f"/proc/self/fd/{descriptor}"):  # by which it gets its name
            return descriptor, True
        os.close(descriptor)
    return os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), False


def _name(descriptor: int, path: Path) -> None:
    """Give a name to an open file that has none; on a file system without links, to a copy of it."""
    nameless, folder = f"/proc/self/fd/{descriptor}", os.open(path.parent, os.O_RDONLY)
    try:  # given a folder, Python makes the link to the file, and not to what stands for it in /proc
        os.link(nameless, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with open(nameless, "rb") as source, open(path, "xb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
    finally:
        os.close(folder)


def _move(partial: Path, path: Path, overwrite: bool, remedy: str) -> None:
    """Move a complete file into its place, and flush the entry of the folder too."""
    if not overwrite:
        with suppress(OSError):  # a file system without links, or a name that is taken
            os.link(partial, path)
        if os.path.lexists(path) and not path.samefile(partial):
            raise InputError(f"{path} exists; {remedy}")
    partial.replace(path)
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_whole(
    path: str | Path,
    content: bytes | str,
    *,
    overwrite: bool = True,
    make_folder: bool = False,
    remedy: str = "choose another place",
    error: Callable[[str], Exception] = InputError,
) -> None:
    r"""Write a file so that its place holds all of it or what it held before, see `open_whole`.

    Args:
        path: the place.
        content: text is written in UTF-8; characters that UTF-8 does not have become escapes, such as ``\udce9``.
        overwrite: replace a file that is there.
        make_folder: make the folder of the place if it does not exist.
        remedy: what to do when the file cannot be written, the end of the message.
        error: the exception to raise when the file cannot be written.

    Raises:
        InputError: the file cannot be written (or the exception that ``error`` names), or it exists and is to stay.
    """
    with open_whole(path, overwrite=overwrite, make_folder=make_folder, remedy=remedy, error=error) as file:
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


@contextmanager
def make_whole(folder: Path) -> Iterator[Path]:
    """Fill a folder that takes its place only once it is complete.

    Args:
        folder: the place; a folder that is there is replaced.

    Yields:
        An empty folder beside the place, to be filled.

    Raises:
        InputError: it cannot be written.
    """
    staging, aside = (folder.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.partial") for _ in range(2))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
        yield staging
        if folder.is_dir() and not folder.is_symlink():
            folder.replace(aside)  # a folder that holds something cannot be replaced in one step
        try:
            staging.replace(folder)
        except OSError:
            if aside.exists():
                aside.replace(folder)
            raise
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); choose another place") from error
    finally:
        for leftover in (staging, aside):
            shutil.rmtree(leftover, ignore_errors=True)


def read_yaml(path: str | Path, holds: str = OPTIONS) -> dict[str, Any]:
    """Read a YAML file, see `parse_yaml` for what it may hold.

    The file is in UTF-8, or in UTF-16 with a byte order mark. A pipe or a device is not read.

    Args:
        path: the file.
        holds: what such a file has, for messages.

    Raises:
        InputError: the file cannot be read, is too large or is not such YAML; with the line.
    """
    content = _read_bytes(path, f"expected a YAML file with {holds}")
    encoding = next((name for mark, name in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: is not text in UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"
        ) from error
    return parse_yaml(text, path, holds)


def _read_bytes(path: str | Path, expected: str) -> bytes:
    """Return what is in a file, unless it is larger than YAML is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its other end
        try:
            status = os.fstat(descriptor)
            require(stat.S_ISREG(status.st_mode), f"{path}: is not a file; {expected}")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(MOST_BYTES + 1) if status.st_size <= MOST_BYTES else b""
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{path}: cannot be read ({reason}); {expected}") from error
    size = max(status.st_size, len(content))
    require(size <= MOST_BYTES, f"{path}: has {size:,} bytes, at most {MOST_BYTES:,} are read; {expected}")
    return content


Curve = dict[int, float]
"""Values of one metric by step, ascending."""


class RunMetrics(NamedTuple):
    """The metrics of a run.

    Attributes:
        history: by metric; a step that was repeated after a resume has its last value.
        seconds: from the first start of training to the last row, pauses between starts left out; None without a row.
    """

    history: dict[str, Curve]
    seconds: float | None


def read_metrics(path: Path) -> RunMetrics:
    """Read a run's ``metrics.csv``; a file that is not there has no metrics.

    Each start of training begins with a row of ``parameters``; the time between two starts is not counted, and neither
    is a row that a kill has cut short.

    Raises:
        InputError: the file cannot be read.
    """
    history: dict[str, Curve] = {}
    seconds, begun, before = 0.0, None, None
    for time, step, metric, value in _rows(path):
        if begun is None or (metric == "parameters" and before is not None):
            seconds += 0.0 if begun is None or before is None else before - begun
            begun = time
        before = time
        history.setdefault(metric, {})[step] = value
    ascending = {metric: dict(sorted(curve.items())) for metric, curve in history.items()}
    return RunMetrics(ascending, None if begun is None or before is None else seconds + before - begun)


def _rows(path: Path) -> Iterator[tuple[float, int, str, float]]:
    """Yield time, step, metric and value of each whole row."""
    if not path.is_file():
        return
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            for line in file:
                if not line.endswith("\n"):
                    continue
                try:
                    row = next(csv.reader([line])) if '"' in line else line.rstrip("\r\n").split(",")
                    time, step, metric, value = row
                    yield float(time), int(step), metric, float(value)
                except (ValueError, csv.Error):  # the heads, or half a row with the next start's after it
                    continue
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix it, or move the run away") from error
