"""Pictures of one's own that a network is asked about: a file, a folder, a table that lists files, or arrays."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from capsule_lightning.data.array_pictures import ARRAYS, read_array_pictures
from capsule_lightning.data.facts import Facts, describe_facts
from capsule_lightning.data.image_files import read_files, unreadable
from capsule_lightning.data.image_trees import find_images
from capsule_lightning.data.label_tables import TABLES, files_in, read_table
from capsule_lightning.data.pictures import Reading
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.errors import require


class ToPredict(NamedTuple):
    """Pictures to predict.

    Attributes:
        images: ``(N, C, H, W)`` uint8.
        files: of each; empty of arrays.
        facts: what was met in them; None of arrays.
    """

    images: Tensor
    files: list[Path]
    facts: Facts | None


def read_to_predict(path: Path, shape: tuple[int, int, int], reading: Reading) -> ToPredict:
    """Read pictures, and say what was odd about them.

    Args:
        path: an image file, a folder of them, a table that lists them in a column ``path``, or an ``.npy`` or ``.npz``
            file.
        shape: ``(C, H, W)``, to which files are brought; arrays must have it.
        reading: how files become pictures.

    Raises:
        InputError: there are none, or some cannot be read.
    """
    if path.suffix in ARRAYS:
        return ToPredict(read_array_pictures(path, shape, reading), [], None)
    kind, odd = kind_of(path), []
    if kind == "folder":
        found = find_images(path)
        files, odd = found.images, found.odd
        require(files or odd, f"{path}: no images in this folder; expected png, jpeg, webp, ...")
    else:
        missing = "no such file or folder" if kind.startswith("no such") else f"is not an image file ({kind})"
        require(kind == "file", f"{path}: {missing}; --data.images takes an image file or a folder of them")
        files = files_in(read_table(path)) if path.suffix.lower() in TABLES else [path]
    if odd and not (files and reading.skip_damaged):
        raise unreadable(odd)
    read = read_files(files, shape, resize=True, reading=reading)
    top = path.parent if path.suffix.lower() in TABLES else path
    facts = read.facts.below(top, {each.path: each.reason for each in odd}, ())
    for line in describe_facts({"predict": facts}, reading, shape[0]):
        rank_zero_info(line)
    return ToPredict(read.images, [files[number] for number in read.kept], facts)
