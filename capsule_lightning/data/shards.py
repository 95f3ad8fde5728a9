"""Shards: some thousand pictures of image files in one file, with what was met in them and measured on them.

A shard is a folder with ``images.npy``, ``records.npy`` and ``source.json``, which takes its place when it is whole: an
interruption costs the shard that was being made. It belongs to the names, sizes and times of its files: one that has
changed costs its shard, and one that has come or gone those from there on. Pictures are read, not memory-mapped: a
mapped file that is cut short kills the process, and mapped pages count as its memory. Each picture has a checksum,
which every reading compares.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from capsule_lightning.data import prepared
from capsule_lightning.data.array_files import map_array, read_header
from capsule_lightning.data.image_files import MOST_DAMAGED, decode_files, unreadable
from capsule_lightning.data.image_trees import fingerprint
from capsule_lightning.data.pictures import Reading, UnreadableImageError
from capsule_lightning.data.prepared import SOURCE
from capsule_lightning.data.regular_files import open_regular
from capsule_lightning.data.statistics import Measures, measure
from capsule_lightning.errors import first_line
from capsule_lightning.runs.files import make_whole, open_whole

MOST_BYTES, MOST_IMAGES = 2**26, 4096
"""Pixels and pictures of a shard, at most."""
IMAGES, RECORDS = "images.npy", "records.npy"
DAMAGED, WITH_PIXELS, CHECKSUM = "damaged", "with_pixels", "checksum"
"""Under which `source.json` has which files were left out, whether pixels are there, and what the records add up to."""
MET = ("size", "transparent", "animated", "mode", "cut")
"""Fields of a record that are `Seen`."""
MEASURED = ("digest", "sums", "squares", "single")
"""Fields of a record that are `Measures`."""


class How(NamedTuple):
    """How image files become pictures of a shard.

    Attributes:
        shape: ``(C, H, W)`` of a picture.
        resize: scale pictures of another size.
        reading: see `Reading`.
        top: folder that the files' names are relative to.
        with_pixels: keep the pixels, and not only what was measured on them.
    """

    shape: tuple[int, int, int]
    resize: bool
    reading: Reading
    top: Path
    with_pixels: bool

    @property
    def per_shard(self) -> int:
        """Number of pictures of a shard; the last one may have fewer."""
        return max(1, min(MOST_IMAGES, MOST_BYTES // prod(self.shape)))

    @property
    def record(self) -> np.dtype:
        """What `records.npy` has of each file."""
        channels = self.shape[0]
        seen = [("size", "<u4", (2,)), ("transparent", "?"), ("animated", "?"), ("mode", "S32"), ("cut", "?")]
        fields = [("good", "?"), *seen, ("checksum", "<u4")]
        measured = [("digest", "<i8"), ("sums", "<i8", (channels,)), ("squares", "<i8", (channels,)), ("single", "?")]
        return np.dtype([*fields, *measured])

    def mark(self, paths: Sequence[Path]) -> str:
        """Return the fingerprint of a shard of such files."""
        return fingerprint(paths, self.top, f"{self.reading.mark} {self.shape} {self.resize} shard")


class Shard(NamedTuple):
    """What a whole shard says of its N files.

    Attributes:
        records: ``(N)`` of the type `How.record`.
        damaged: why files could not be read, by their names.
    """

    records: np.ndarray
    damaged: dict[str, str]


def make_shard(folder: Path, paths: Sequence[Path], how: How) -> None:
    """Decode files into a shard.

    Args:
        folder: its place; what lies there is replaced.
        paths: N files.
        how: see `How`.

    Raises:
        InputError: files cannot be read, or have another size; the folder cannot be written.
    """
    mark = how.mark(paths)  # before the files are read: one that changes meanwhile is read again the next time
    decoded = decode_files(paths, how.shape, how.resize, how.reading)
    good = np.array([seen is not None for seen in decoded.seen])
    decoded.pictures[~good] = 0
    pictures = np.ascontiguousarray(decoded.pictures.transpose(0, 3, 1, 2))
    records = np.zeros(len(paths), how.record)
    records["good"] = good
    for name in MET:
        records[name][good] = [getattr(seen, name) for seen in decoded.seen if seen is not None]
    measures = measure(torch.from_numpy(pictures))
    for name, measured in zip(MEASURED, measures, strict=True):
        records[name] = measured.numpy()
    records["checksum"] = [zlib.crc32(picture.data) for picture in pictures]
    damaged = {os.fspath(paths[n].relative_to(how.top)): error.reason for n, error in decoded.damaged.items()}
    source = {"fingerprint": mark, DAMAGED: damaged, WITH_PIXELS: how.with_pixels, CHECKSUM: zlib.crc32(records.data)}
    with make_whole(folder) as staging:
        for name, values in ((IMAGES, pictures), (RECORDS, records)):
            if name == RECORDS or how.with_pixels:
                with open_whole(staging / name) as file:
                    np.save(file, values)
        (staging / SOURCE).write_text(json.dumps(source))


def open_shard(folder: Path, paths: Sequence[Path], how: How) -> Shard | None:
    """Return what a shard says of its files, or None if there is none, or one of other files.

    Raises:
        InputError: a part of it is missing or damaged.
    """
    found = prepared.source(folder)
    if found is None or (how.with_pixels and found.get(WITH_PIXELS) is not True):
        return None
    if found["fingerprint"] != how.mark(paths):
        return None
    try:
        header = read_header(folder / RECORDS)
        if (header.dtype, header.shape) != (how.record, (len(paths),)):
            raise ValueError(f"{RECORDS} does not hold {len(paths)} records")
        if how.with_pixels:
            images = read_header(folder / IMAGES)
            if images.dtype != np.uint8 or images.shape != (len(paths), *how.shape):
                raise ValueError(f"{IMAGES} holds {images.shape} {images.dtype}, expected {(len(paths), *how.shape)}")
        records = np.array(map_array(folder / RECORDS, header))
        if zlib.crc32(records.data) != found.get(CHECKSUM):
            raise ValueError(f"{RECORDS} are not those that were written")
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise prepared.damaged(folder, first_line(error)) from error
    return Shard(records, _reasons(found.get(DAMAGED), folder))


def _reasons(found: Any, folder: Path) -> dict[str, str]:
    words = isinstance(found, dict) and all(isinstance(word, str) for item in found.items() for word in item)
    if not words or len(found) > MOST_DAMAGED:
        raise prepared.damaged(folder, f"{SOURCE} does not say which files were left out")
    return dict(found)


def measures_of(records: np.ndarray) -> Measures:
    """Return the measures of records."""
    return Measures(*(torch.from_numpy(records[name].copy()) for name in MEASURED))


def require_readable(damaged: dict[str, str], how: How) -> None:
    """Refuse files that could not be read, unless they may be left out.

    Raises:
        InputError: there are such, or too many.
    """
    if damaged and not (how.reading.skip_damaged and len(damaged) <= MOST_DAMAGED):
        raise unreadable([UnreadableImageError(how.top / name, reason) for name, reason in damaged.items()])


class ShardedPictures:
    """Pictures in shards.

    Args:
        folder: of the shards.
        how: how they were made.
        checksums: ``(N)`` of all pictures.
    """

    def __init__(self, folder: Path, how: How, checksums: np.ndarray) -> None:
        self.folder, self.how, self.checksums = folder, how, checksums
        self.bytes = prod(how.shape)

    def read(self, number: int, out: np.ndarray) -> None:
        """Read a picture into ``out (C, H, W)``.

        Raises:
            InputError: the shard is damaged.
        """
        shard, place = divmod(number, self.how.per_shard)
        folder = shard_folder(self.folder, shard)
        try:
            with open_regular(f"{folder}/{IMAGES}") as file:
                held = min(self.how.per_shard, len(self.checksums) - shard * self.how.per_shard)
                start = os.fstat(file.fileno()).st_size - held * self.bytes  # of the pixels, which end the file
                count = os.preadv(file.fileno(), [out.data], start + place * self.bytes)
        except (OSError, ValueError) as error:
            raise prepared.damaged(folder, first_line(error)) from error
        if count != self.bytes or zlib.crc32(out.data) != self.checksums[number]:
            raise prepared.damaged(folder, f"picture {place} of {IMAGES} is not the one that was written")


def shard_folder(folder: Path, number: int) -> Path:
    """Return the folder of a shard."""
    return folder / f"{number:06d}"
