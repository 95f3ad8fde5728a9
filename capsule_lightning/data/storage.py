"""Where the pictures of image files are while a network is trained: in memory, in shards on disk, or in their files."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Literal, NamedTuple

from capsule_lightning.errors import InputError, require

Storage = Literal["memory", "shards", "originals"]

CACHE_VARIABLE = "XDG_CACHE_HOME"
"""Names the folder for what a folder that cannot be written should keep."""
_SHARE = 4  # of free memory or disk that is taken without being asked, at most one part of so many


class Plan(NamedTuple):
    """Where the pictures are, and why.

    Attributes:
        storage: see `Storage`.
        reason: in words.
    """

    storage: Storage
    reason: str


def choose(
    asked: Storage | None, count: int, paths: Iterable[Path], shape: tuple[int, int, int], folders: Sequence[Path]
) -> Plan:
    """Choose where pictures are, as the user asks or else by their size.

    Memory if they take at most a quarter of what is free, because they are there twice while they are decoded;
    otherwise shards if these take no more than the files themselves and a quarter of the free disk; otherwise the
    files.

    Args:
        asked: what the user asks for; None to choose.
        count: number of the files.
        paths: the files; they are only looked at if memory is too small.
        shape: ``(C, H, W)`` of a picture.
        folders: where shards may be kept, see `place`.
    """
    size, free = count * prod(shape), free_memory()
    takes = f"{count:,} images take {in_words(size)}"
    if asked is not None:
        return Plan(asked, f"{takes}; as --data.storage says")
    if free is None or _SHARE * size <= free:
        return Plan("memory", f"{takes} of {'memory' if free is None else f'{in_words(free)} of free memory'}")
    more = f"{takes}, more than a quarter of {in_words(free)} of free memory"
    files = sum(path.stat().st_size for path in paths)
    disk = free_disk(place(folders))
    if size > files:
        return Plan("originals", f"{more}, and more than the {in_words(files)} of the files: --data.storage shards")
    if _SHARE * size > disk:
        return Plan("originals", f"{more}, and more than a quarter of {in_words(disk)} of free disk")
    return Plan("shards", f"{more}; --data.storage originals takes no disk")


def folders_for(root: Path, below: str, mark: str) -> list[Path]:
    """Return the folders that may keep what is made of the files of a folder: there, or else in the user's cache.

    Args:
        root: the folder.
        below: a folder, for a person to see what it is.
        mark: what else tells things that are made of the same files apart.
    """
    cache = Path(os.path.expanduser(os.environ.get(CACHE_VARIABLE) or "~/.cache"))
    own, way = (hashlib.sha256(each).hexdigest()[:8] for each in (os.fsencode(os.path.abspath(root)), mark.encode()))
    return [above / below / f"shards-{way}" for above in (root / ".prepared", cache / "capsule_lightning" / own)]


def place(folders: Sequence[Path]) -> Path:
    """Return the first of some folders that can be written, whether or not it is there yet.

    Raises:
        InputError: none can.
    """
    for folder in folders:
        here = _nearest(folder)
        if here.is_dir() and os.access(here, os.W_OK | os.X_OK):
            return folder
    raise InputError(
        f"{' and '.join(str(_nearest(folder)) for folder in folders)} cannot be written, so nothing can be kept there; "
        f"set {CACHE_VARIABLE} to a folder that can, or keep all images in memory with --data.storage memory"
    )


def require_disk(size: int, folder: Path) -> None:
    """Refuse to make what the disk has no room for.

    Raises:
        InputError: fewer than ``size`` bytes are free.
    """
    free = free_disk(folder)
    require(
        size <= free,
        f"{folder}: shards take {in_words(size)} more, and {in_words(free)} are free; make room, choose smaller images "
        "with --data.image_size, or read the files themselves with --data.storage originals",
    )


def free_disk(folder: Path) -> int:
    """Return the bytes that are free where a folder is or would be."""
    return shutil.disk_usage(_nearest(folder)).free


def free_memory() -> int | None:
    """Return the bytes of memory that are free or soon would be; None if that is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def in_words(size: int) -> str:
    """Return a number of bytes in the unit that suits it.

    Example:
        >>> in_words(190 * 10**9), in_words(2**20), in_words(3000)
        ('177.0 GiB', '1.0 MiB', '3 KiB')
    """
    if size >= 2**30:
        return f"{size / 2**30:,.1f} GiB"
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{-(-size // 2**10)} KiB"


def _nearest(folder: Path) -> Path:
    """Return a folder, or the nearest above it that is there."""
    return next(each for each in (folder, *folder.parents) if os.path.lexists(each))
