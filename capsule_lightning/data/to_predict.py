"""Pictures of one's own that a network is asked about: a file, a folder, a table that lists files, or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from capsule_lightning.data.array_pictures import ARRAYS, find_array_pictures
from capsule_lightning.data.facts import Facts, describe_facts
from capsule_lightning.data.image_files import read_files, unreadable
from capsule_lightning.data.image_trees import find_images
from capsule_lightning.data.label_tables import TABLES, files_in, read_table
from capsule_lightning.data.loader import MemoryStore, Store
from capsule_lightning.data.path_lists import PathList
from capsule_lightning.data.pictures import Reading, UnreadableImageError
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.data.streamed_pictures import StreamedArray, StreamedFiles, are_many
from capsule_lightning.errors import require, some_of


class ToPredict(NamedTuple):
    """Pictures to predict.

    Attributes:
        store: the pictures, read or, if they are many, streamed; uint8 or float32.
        files: of each; empty of arrays.
        facts: what was met in them; None of arrays and of what is streamed.
    """

    store: Store
    files: list[Path]
    facts: Facts | None


def read_to_predict(path: Path, shape: tuple[int, int, int], reading: Reading) -> ToPredict:
    """Read pictures whose labels are unknown, and say what was odd about them.

    Args:
        path: an image file, a folder of them, a table that lists them in a column ``path``, or a file of arrays.
        shape: ``(C, H, W)``, to which files are brought; arrays must have it.
        reading: how files become pictures.

    Raises:
        InputError: there are none, or some cannot be read.
    """
    if path.suffix in ARRAYS:
        return array_to_predict(path, shape, reading)
    kind, odd = kind_of(path), []
    if kind == "folder":
        found = find_images(path)
        files, odd = found.images, found.odd
        require(files or odd, f"{path}: no images in this folder; expected png, jpeg, webp, ...")
    else:
        missing = "no such file or folder" if kind.startswith("no such") else f"is not an image file ({kind})"
        require(kind == "file", f"{path}: {missing}; --data.images takes an image file or a folder of them")
        files = PathList(files_in(read_table(path)) if path.suffix.lower() in TABLES else [path])
    top = path.parent if path.suffix.lower() in TABLES else path
    return files_to_predict(files, unknown(len(files)), odd, top, shape, reading)


def array_to_predict(path: Path, shape: tuple[int, int, int], reading: Reading) -> ToPredict:
    """Return the images of a file of arrays; their labels are unknown.

    Raises:
        InputError: there are no such images.
    """
    found = find_array_pictures(path, shape, reading)
    count = found.array.shape[0]
    many = are_many(count, shape, found.coding.dtype)
    return ToPredict(StreamedArray(found) if many else MemoryStore(found.read(), unknown(count)), [], None)


def files_to_predict(
    files: Sequence[Path],
    labels: Tensor,
    odd: Sequence[UnreadableImageError],
    top: Path,
    shape: tuple[int, int, int],
    reading: Reading,
) -> ToPredict:
    """Return image files to predict, and say what was met in them.

    Args:
        files: N files.
        labels: ``(N)`` int64, -1 if unknown.
        odd: what has the name of an image, and is not a file.
        top: folder to which the names in what is said are relative.
        shape: ``(C, H, W)``, to which they are brought.
        reading: how files become pictures.

    Raises:
        InputError: files cannot be read, and may not be left out.
    """
    if odd and not (files and reading.skip_damaged):
        raise unreadable(odd)
    if are_many(len(files), shape, reading.dtype):
        if odd:
            named = some_of([str(each.path) for each in odd])
            rank_zero_info(f"{len(odd):,} are no files and are left out: {named}")
        return ToPredict(StreamedFiles(files, labels, shape, reading), [*files], None)
    read = read_files(files, shape, resize=True, reading=reading)
    facts = read.facts.below(top, {each.path: each.reason for each in odd}, ())
    for line in describe_facts({"predict": facts}, reading, shape[0]):
        rank_zero_info(line)
    return ToPredict(MemoryStore(read.images, labels[read.kept]), [files[number] for number in read.kept], facts)


def unknown(count: int) -> Tensor:
    """Return labels ``(N)`` of ``count`` images, none of which is known."""
    return torch.full((count,), -1)
