"""The sets of the Pascal VOC challenges: where they are, and which images are to train and to test on.

Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from capsule_lightning.data.original_files import fetch, names_in
from capsule_lightning.data.regular_files import kind_of

Year = Literal["2007", "2008", "2009", "2010", "2011", "2012"]
Kind = Literal["Segmentation", "Main"]
"""Folder of the lists of images with masks, or with boxes."""
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def voc_folder(root: Path, year: Year) -> Path:
    """Return the folder of a year as torchvision keeps it, whether it is there or not."""
    usual = root / "VOCdevkit" / f"VOC{year}"
    packed = root / "TrainVal" / "VOCdevkit" / f"VOC{year}"  # the archive of 2011 has one folder more
    return packed if kind_of(usual) != "folder" and (year == "2011" or kind_of(packed) == "folder") else usual


def fetch_voc(root: Path, year: Year, kind: Kind, download: bool) -> None:
    """See to it that the files of a year are there.

    Raises:
        InputError: they are not.
    """

    def fetched() -> None:
        from torchvision.datasets import VOCDetection, VOCSegmentation

        made = VOCSegmentation if kind == "Segmentation" else VOCDetection
        for part in ("trainval", "test") if year == "2007" else ("trainval",):
            made(str(root), year=year, image_set=part, download=True)

    fetch(voc_folder(root, year), fetched if download else None)


def voc_names(folder: Path, kind: Kind) -> dict[str, list[str]]:
    """Return the names of the images of each split.

    Where the images to test on are given out, as those of 2007 are, these are ``train``, ``val`` and ``test``;
    otherwise the challenge's images for validation are to test on.

    Args:
        folder: of a year.
        kind: of the lists.

    Raises:
        InputError: a list is missing or is something else.
    """
    lists = folder / "ImageSets" / kind
    given = {"train": "train", "test": "val"}
    if kind_of(lists / "test.txt") == "file":
        given = {"train": "train", "val": "val", "test": "test"}
    return {split: [row[0] for row in names_in(lists / f"{file}.txt", 1)] for split, file in given.items()}
