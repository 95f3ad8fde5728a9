"""Images of one's own with boxes: COCO's JSON, Pascal VOC's XML, or YOLO's text files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.annotated import part, require_test_size
from capsule_lightning.data.box_files import Annotated, BoxSet
from capsule_lightning.data.coco_boxes import read_coco
from capsule_lightning.data.listed_boxes import ListedBoxesDataModule
from capsule_lightning.data.pictures import MOST_PIXELS, Reading
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.data.voc_boxes import read_voc
from capsule_lightning.data.yolo_boxes import read_yolo
from capsule_lightning.errors import require, require_one_of

Format = Literal["auto", "coco", "voc", "yolo"]


class BoxesDataModule(ListedBoxesDataModule):
    """Image files and the boxes of their objects, brought to one size.

    Files are read as `ImageDataModule` reads them; where EXIF turns a picture, boxes are taken to be of the picture as
    it is seen. Boxes are cut at the border of their image; those without area in it are left out, and how many were is
    told before training. Images without objects are trained and tested on like others. In a crowd of COCO, and in what
    Pascal VOC calls difficult, nothing counts as wrong.

    Args:
        path: a ``.json`` of COCO; a folder of Pascal VOC, with ``Annotations`` and ``JPEGImages``; or one of YOLO, with
            ``labels`` and ``images``.
        test_path: the same for tests; null to split ``test_size`` off.
        format: what ``path`` is; ``auto`` to judge by what is there.
        pictures: folder of the images; null for that of the ``.json``, or the one beside the annotations.
        test_pictures: the same for ``test_path``; null for ``pictures`` if that is given.
        class_names: names of the classes, in the order of their numbers; null for those of the files: COCO's categories
            by their ids, VOC's names in the order of the alphabet, YOLO's ``classes.txt`` or else its numbers.
        image_size: rows and columns that images are brought to, whatever their shape.
        channels: 1 for gray, 3 for color.
        mirror: mirror half of the training images, left and right, with their boxes.
        augmentation: augmentation of the training images besides, by which their boxes are moved alike; where less than
            a quarter of one remains, nothing counts as wrong. Null for none.
        test_size: number or fraction of the images that form the test set if there is none; the same for every seed.
        batch_size, val_size, seed: see `DataModule`; the split is by chance alone.
        images, background, invert, max_pixels: see `ImageDataModule`.

    Raises:
        InputError: a file is missing or states something else, which the message names; a value is out of range.
    """

    name = "boxes"

    def __init__(
        self,
        path: str | None = None,
        test_path: str | None = None,
        format: Format = "auto",
        pictures: str | None = None,
        test_pictures: str | None = None,
        class_names: list[str] | None = None,
        image_size: int = 128,
        channels: int = 3,
        mirror: bool = True,
        augmentation: Callable[[], Augmentation] | None = None,
        test_size: float | int = 0.2,
        batch_size: int = 32,
        val_size: float | int = 0.1,
        seed: int | None = None,
        images: str | None = None,
        background: str = "white",
        invert: bool = False,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        super().__init__(
            (channels, image_size, image_size),
            mirror,
            augmentation,
            batch_size,
            val_size,
            seed,
            images,
            Reading(background, invert, max_pixels),
        )
        require(path, "no boxes are given: set --data.path to a .json of COCO, or to a folder of Pascal VOC or of YOLO")
        require_one_of("format", format, get_args(Format))
        require_test_size(test_size)
        shared = pictures if test_pictures is None else test_pictures
        found = read_set(Path(os.path.expanduser(str(path))), format, pictures)
        tests = None if test_path is None else read_set(Path(os.path.expanduser(test_path)), format, shared)
        self._found: dict[str, Sequence[Annotated]] = {"train": found.images}
        if tests is not None:
            self._found["test"] = tests.images
        else:
            kept, taken = part(len(found.images), test_size, 0)
            self._found = {"train": [found.images[n] for n in kept], "test": [found.images[n] for n in taken]}
        self.class_names = class_names or found.class_names or named_in(found)

    @override
    def find_sets(self) -> Mapping[str, Sequence[Annotated]]:
        return self._found


def read_set(path: Path, kind: Format, pictures: str | None) -> BoxSet:
    """Read the boxes of a file or a folder.

    Raises:
        InputError: what is there is of no known format, or is refused by the reader of its format.
    """
    there, folder = kind_of(path), None if pictures is None else Path(os.path.expanduser(pictures))
    if kind == "auto":
        if there == "file":
            kind = "coco"
        elif there == "folder":
            kind = "yolo" if kind_of(path / "labels") == "folder" else "voc"
    expected = "file" if kind == "coco" else "folder"
    require(
        there == expected,
        f"path={path}: {there}; expected a .json of COCO, or a folder of Pascal VOC or of YOLO",
    )
    return {"coco": read_coco, "voc": read_voc, "yolo": read_yolo}[kind](path, folder)


def named_in(found: BoxSet) -> list[str]:
    """Return the names of classes that boxes have; of numbers, all up to the greatest.

    Raises:
        InputError: there is no box.
    """
    names = sorted({box.label for image in found.images for box in image.boxes})
    require(names, "there is not a single box: expected some; or state --data.class_names")
    if found.relative:
        return [str(number) for number in range(max(map(int, names)) + 1)]
    return names
