"""People in photographs and their joints, as COCO's keypoint files list them."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import ceil, floor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.coco_file import Keypoints, Person, read_keypoints
from capsule_lightning.data.joints import JointDataModule, JointLabels
from capsule_lightning.data.loader import MemoryStore
from capsule_lightning.data.module import Split
from capsule_lightning.data.pictures import MOST_PIXELS, Reading, read_picture
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.data.stratified import split_off
from capsule_lightning.errors import InputError, require

_MOST_CUT = 2**27  # Pillow refuses to cut out 179 million pixels


class CocoKeypointsDataModule(JointDataModule):
    """Each person of COCO's keypoint files, cut out by a square around the box and brought to one size.

    Crowds, and people without a labeled joint, are left out and counted. A joint with v = 0 is not labeled, with v = 1
    labeled and hidden, with v = 2 seen. The people of one image are in one split.

    Args:
        annotations: file of the people to train on, such as ``person_keypoints_train2017.json``.
        folder: folder of the images that it names.
        test_annotations: file of those to test on; null to split off ``test_size``.
        test_folder: folder of their images; null for ``folder``.
        size: rows and columns of a picture.
        margin: how many times larger than the longer side of the box the square is.
        channels: 3 for color, 1 for gray.
        max_pixels: most pixels of an image file; a larger one is refused before it is decoded.
        test_size: number or fraction of the people that form the test set if there is no file of them, the same for
            every seed.
        noise, images, batch_size, val_size, seed, augmentation: see `JointDataModule`.

    Raises:
        InputError: files that cannot be read or are not in the format, naming the field; values out of range.
    """

    name = "coco_keypoints"

    def __init__(
        self,
        annotations: str | None = None,
        folder: str | None = None,
        test_annotations: str | None = None,
        test_folder: str | None = None,
        size: int = 64,
        margin: float = 1.25,
        channels: int = 3,
        max_pixels: int = MOST_PIXELS,
        test_size: float | int = 0.2,
        noise: float = 0.0,
        images: str | None = None,
        batch_size: int = 64,
        val_size: float | int = 0.1,
        seed: int | None = None,
        augmentation: Callable[[], Augmentation] | None = None,
    ) -> None:
        super().__init__(2, noise, images, batch_size, val_size, seed, augmentation)
        require(annotations, "no file of people is given: set --data.annotations to a file of COCO's keypoints")
        require(folder, "no folder of images is given: set --data.folder to that of the images which the file names")
        require(8 <= size <= 1024, f"size={size}: expected 8 to 1024 pixels")
        require(1 <= margin <= 4, f"margin={margin}: expected 1 to 4 times the box")
        require(channels in (1, 3), f"channels={channels}: expected 3 for color or 1 for gray")
        require(
            test_size > 0 and (not isinstance(test_size, float) or test_size < 1 or test_size.is_integer()),
            f"test_size={test_size}: expected a fraction below 1 or a number of people",
        )
        self.folders = {"train": Path(os.path.expanduser(str(folder)))}
        self.folders["test"] = Path(os.path.expanduser(test_folder)) if test_folder else self.folders["train"]
        for place in self.folders.values():
            require(kind_of(place) == "folder", f"{place}: no such folder; --data.folder takes that of the images")
        self.size, self.margin, self.channels, self.test_size = size, margin, channels, test_size
        self.reading = Reading(max_pixels=max_pixels)
        self.files = {"train": read_keypoints(Path(os.path.expanduser(str(annotations))))}
        self.class_names = list(self.files["train"].names)
        if test_annotations is not None:
            self.files["test"] = read_keypoints(Path(os.path.expanduser(test_annotations)))
            require(
                list(self.files["test"].names) == self.class_names,
                f"{test_annotations}: categories: has other joints than those to train on",
            )
        self._people: dict[str, list[Person]] = {}

    @property
    @override
    def in_shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    @override
    def open(self, split: Split) -> MemoryStore:
        """Cut out the people of a split."""
        file, people = self._of(split)
        pictures = torch.empty(len(people), *self.in_shape, dtype=torch.uint8)
        pixels = torch.empty(len(people), self.num_classes, 2)
        areas = torch.empty(len(people))
        image, opened = np.empty(0), -1
        for n in sorted(range(len(people)), key=lambda n: people[n].image):
            person = people[n]
            if person.image != opened:
                image, opened = self._image(split, *file.images[person.image]), person.image
            left, top, side = square(person.box, self.margin)
            self._require_inside(person, file.images[person.image][0], image, side)
            pictures[n] = torch.from_numpy(cut_out(image, left, top, side, self.size)).view(*self.in_shape)
            scale = self.size / side
            places = torch.tensor([(x - left, y - top) for x, y, _ in person.keypoints], dtype=torch.float64) * scale
            labeled = torch.tensor([seen > 0 for _, _, seen in person.keypoints])
            pixels[n] = torch.where(labeled.unsqueeze(1), places, torch.nan).float()
            areas[n] = person.area * scale**2
        visible = torch.tensor([[seen == 2 for _, _, seen in person.keypoints] for person in people])
        unknown = torch.full((len(people), self.num_classes, 3), torch.nan)
        self._people[split] = people
        return MemoryStore(pictures, JointLabels(pixels, unknown, visible, areas).packed())

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Hold out all people of some images."""
        groups = [str(person.image) for person in self._people["train"]]
        zeros = torch.zeros(len(groups), dtype=torch.int64)
        return split_off(zeros, self.val_size, self.seed, "val_size", ["person"], groups)

    @override
    def name_of(self, index: int) -> str:
        people = self._people.get("test")
        return super().name_of(index) if people is None else f"{self._of('test')[0].images[people[index].image][0]}"

    @override
    def describe(self) -> str:
        crowds, empty = (sum(getattr(file, what) for file in self.files.values()) for what in ("crowds", "empty"))
        told = f"{crowds:,} crowds and {empty:,} people without a labeled joint are left out"
        return super().describe() + (f"\n  {told}" if crowds or empty else "")

    def _of(self, split: Split) -> tuple[Keypoints, list[Person]]:
        """Return the file and the people of a split."""
        if "test" in self.files:
            return self.files[split], list(self.files[split].people)
        file = self.files["train"]
        groups = [str(person.image) for person in file.people]
        zeros = torch.zeros(len(groups), dtype=torch.int64)
        train, test = split_off(zeros, self.test_size, 0, "test_size", ["person"], groups)
        return file, [file.people[n] for n in (test if split == "test" else train).tolist()]

    def _require_inside(self, person: Person, name: str, image: np.ndarray, side: float) -> None:
        """Refuse a person whose box does not meet the image, or whose square is too large to be cut out."""
        (rows, columns), (left, top, width, height) = image.shape[:2], person.box
        require(
            -width <= left <= columns and -height <= top <= rows,
            f"{name}: the box {list(person.box)} of a person lies outside of the image of {rows}x{columns} pixels; "
            "mend the annotations",
        )
        most = min(self.reading.max_pixels, _MOST_CUT)
        require(
            side**2 <= most,
            f"{name}: the box {list(person.box)} of a person and a margin of {self.margin:g} make a square of {side:g} "
            f"pixels; expected one of at most {most:,} in all: mend the annotations, or lower --data.margin",
        )

    def _image(self, split: Split, name: str, size: tuple[int, int]) -> np.ndarray:
        path = self.folders[split if "test" in self.files else "train"] / name
        image, seen = read_picture(path, self.channels, size, False, self.reading)
        if image is None:
            raise InputError(
                f"{path}: has {seen.size[0]}x{seen.size[1]} pixels, and its height and width are said to be "
                f"{size[0]}x{size[1]}; give the file of annotations of these images"
            )
        return image


def square(box: tuple[float, float, float, float], margin: float) -> tuple[float, float, float]:
    """Return left, top and side of the square around a box ``(left, top, width, height)``.

    Example:
        >>> square((10.0, 20.0, 4.0, 8.0), 1.25)
        (7.0, 19.0, 10.0)
    """
    left, top, width, height = box
    side = max(width, height, 1.0) * margin
    return left + (width - side) / 2, top + (height - side) / 2, side


def cut_out(image: np.ndarray, left: float, top: float, side: float, size: int) -> np.ndarray:
    """Return a square of an image ``(H, W)`` or ``(H, W, 3)`` as ``(C, size, size)`` uint8; outside it is black.

    A point at (x, y) of the image is at ``(x - left, y - top) size / side`` of the square.
    """
    from PIL import Image

    first = floor(left), floor(top)
    whole = Image.fromarray(image).crop((*first, ceil(left + side), ceil(top + side)))
    inner = (left - first[0], top - first[1], left - first[0] + side, top - first[1] + side)
    small = whole.resize((size, size), Image.Resampling.BILINEAR, inner)
    array = np.asarray(small)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array, -1, 0))
