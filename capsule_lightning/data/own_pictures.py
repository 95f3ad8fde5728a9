"""Pictures of one's own, which ``predict`` is given instead of a test set."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from capsule_lightning.data.facts import Facts
from capsule_lightning.data.image_files import read_files, unreadable
from capsule_lightning.data.image_trees import find_images
from capsule_lightning.data.label_tables import TABLES, files_in, read_table
from capsule_lightning.data.pictures import Reading
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.errors import require


class OwnPictures(NamedTuple):
    """Pictures of image files.

    Attributes:
        images: ``(N, C, H, W)`` uint8.
        files: the N files.
        facts: what was met in them.
    """

    images: Tensor
    files: list[Path]
    facts: Facts


def read_own_pictures(path: Path, shape: tuple[int, int, int], reading: Reading) -> OwnPictures:
    """Read an image file, a folder of them, or those that a table lists.

    Args:
        path: of the file, the folder or the table.
        shape: ``(C, H, W)`` that images are brought to.
        reading: how files become pictures.

    Raises:
        InputError: there is nothing that can be read.
    """
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
    return OwnPictures(read.images, [files[number] for number in read.kept], facts)
