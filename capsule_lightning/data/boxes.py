"""Images of one's own with boxes: COCO's JSON, Pascal VOC's XML, or YOLO's text files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.annotated import AnnotatedDataModule
from capsule_lightning.data.box_files import Annotated, BoxSet
from capsule_lightning.data.coco_boxes import read_coco
from capsule_lightning.data.image_files import read_images, size_of
from capsule_lightning.data.loader import MemoryStore, StoredBatch
from capsule_lightning.data.module import Split
from capsule_lightning.data.pictures import MOST_PIXELS, Reading
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.data.targets import ABSENT, BoxBatch
from capsule_lightning.data.voc_boxes import read_voc
from capsule_lightning.data.yolo_boxes import read_yolo
from capsule_lightning.errors import printable, require, require_one_of, some_of

Format = Literal["auto", "coco", "voc", "yolo"]
FIELDS = 6
"""Numbers of a stored box: four edges, class, whether it is a crowd."""


class Kept(NamedTuple):
    """Boxes in pixels of the network's input.

    Attributes:
        boxes: ``(N, M, FIELDS)`` float32, the class is `ABSENT` if there is no Mth.
        empty: boxes without area within their image, which were left out.
        cut: boxes of which a part lay outside of their image, which were cut at its border.
    """

    boxes: Tensor
    empty: int
    cut: int


class BoxesDataModule(AnnotatedDataModule):
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
        test_size: float | int = 0.2,
        batch_size: int = 32,
        val_size: float | int = 0.1,
        seed: int | None = None,
        images: str | None = None,
        background: str = "white",
        invert: bool = False,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        super().__init__(batch_size, val_size, seed, images, Reading(background, invert, max_pixels))
        require(path, "no boxes are given: set --data.path to a .json of COCO, or to a folder of Pascal VOC or of YOLO")
        require_one_of("format", format, get_args(Format))
        require(image_size >= 8, f"image_size={image_size}: expected at least 8 pixels")
        require(channels in (1, 3), f"channels={channels}: expected 1 for gray or 3 for color")
        require(
            test_size >= 0 and (not isinstance(test_size, float) or test_size < 1 or test_size.is_integer()),
            f"test_size={test_size}: expected a fraction below 1 or a number of images",
        )
        self.shape = (channels, image_size, image_size)
        self.mirror, self.test_size = mirror, test_size
        shared = pictures if test_pictures is None else test_pictures
        found = read_set(Path(os.path.expanduser(str(path))), format, pictures)
        tests = None if test_path is None else read_set(Path(os.path.expanduser(test_path)), format, shared)
        self.sets: dict[str, Sequence[Annotated]] = {"train": found.images}
        if tests is not None:
            self.sets["test"] = tests.images
        else:
            kept, taken = part(len(found.images), test_size, 0)
            self.sets = {"train": [found.images[n] for n in kept], "test": [found.images[n] for n in taken]}
        self.class_names = class_names or found.class_names or named_in(found)
        self.told: list[str] = []

    @property
    @override
    def num_draws(self) -> int:
        return int(self.mirror)

    @override
    def open(self, split: Split) -> MemoryStore:
        """Return images and boxes of a split, checked.

        Raises:
            InputError: an image is missing or has another size than is stated, or a class is not among the names.
        """
        found = self.sets[split]
        require(found, f"there are no images to {split} on: set --data.test_size or --data.test_path")
        kept = boxes_of(found, self.class_names, self.in_shape[1:], self.reading)
        images = read_images([each.path for each in found], self.in_shape, resize=True, reading=self.reading)
        present = int((kept.boxes[..., 4] >= 0).sum())
        lonely = int((kept.boxes[..., 4] < 0).all(dim=1).sum())
        self.told.append(
            f"{split}: {len(found):,} images with {present:,} boxes, {lonely:,} images without any, "
            f"{int((kept.boxes[..., 5] > 0).sum()):,} crowds or difficult; {kept.cut:,} boxes cut at the border, "
            f"{kept.empty:,} without area left out"
        )
        return MemoryStore(images, kept.boxes)

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        kept, taken = part(len(labels), self.val_size, self.seed)
        return torch.tensor(kept), torch.tensor(taken, dtype=torch.int64)

    @override
    def class_counts(self) -> Tensor:
        labels = self.store("train").labels.cpu()[self._train][..., 4].long()
        return torch.bincount(labels[labels >= 0], minlength=self.num_classes)

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | BoxBatch, dataloader_idx: int) -> BoxBatch:
        """Mirror half of the training images, on the device."""
        if isinstance(batch, BoxBatch):
            return batch
        pictures, stored = batch.inputs.float() / 255, batch.labels
        if stored.ndim == 1:  # pictures of one's own
            stored = pictures.new_zeros(len(pictures), 1, FIELDS)
            stored[..., 4] = ABSENT
        boxes, labels, crowd = stored[..., :4], stored[..., 4].long(), stored[..., 5] > 0
        if batch.draws is not None and self.mirror:
            turned = batch.draws[:, :1] < 0.5  # (B, 1)
            pictures = torch.where(turned[..., None, None], pictures.flip(-1), pictures)
            other = (pictures.shape[-1] - boxes[..., [2, 1, 0, 3]]) * boxes.new_tensor([1, 0, 1, 0])
            other = other + boxes * boxes.new_tensor([0, 1, 0, 1])
            boxes = torch.where((turned & (labels >= 0)).unsqueeze(-1), other, boxes)
        return BoxBatch(pictures, pictures, boxes, labels, crowd, batch.indices)

    @override
    def name_of(self, index: int) -> str:
        """Return the file of an image of a test or a prediction."""
        if self.predict_files:
            return super().name_of(index)
        return printable(str(self.sets["test"][index].path))

    @override
    def picture_size(self, index: int) -> tuple[int, int]:
        """Return rows and columns of the file of an image of a test or a prediction."""
        if self.predict_files:
            return super().picture_size(index)
        return size_of(self.sets["test"][index].path, self.reading)

    @override
    def describe(self) -> str:
        """Return what has been read so far: images, boxes, and whatever was left out or cut."""
        first = f"boxes of {self.num_classes} classes, images {self.in_shape}; {self.describe_splits()}"
        return "".join(f"{line}\n  " for line in [first, *self.told]).rstrip()


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


def boxes_of(found: Sequence[Annotated], class_names: Sequence[str], size: tuple[int, int], reading: Reading) -> Kept:
    """Return boxes in pixels of images of another size.

    Args:
        found: the images.
        class_names: names of the classes.
        size: rows and columns that images are brought to.
        reading: how their files are read.

    Raises:
        InputError: an image cannot be read or has another size than is stated; a class is not among the names.
    """
    numbers, lists, empty, cut = {name: n for n, name in enumerate(class_names)}, [], 0, 0
    for image in found:
        rows, columns = size_of(image.path, reading)
        require(
            image.size in (None, (rows, columns)),
            f"{image.source}: height and width {image.size}, and {image.path} has {(rows, columns)}: boxes of another "
            "picture? correct them",
        )
        across, down = (1.0, 1.0) if image.size is None else (1 / columns, 1 / rows)
        mine = []
        for box in image.boxes:
            require(
                box.label in numbers,
                f"{image.source}: class {box.label!r}: expected one of {some_of(list(class_names))}; see "
                "--data.class_names",
            )
            left, top, right, bottom = (e * s for e, s in zip(box.edges, (across, down) * 2, strict=True))
            edges = [min(max(edge, 0.0), 1.0) for edge in (left, top, right, bottom)]
            if edges[2] <= edges[0] or edges[3] <= edges[1]:
                empty += 1
                continue
            cut += max(-left, -top, right - 1, bottom - 1) > 1e-6  # not by rounding alone
            scaled = [edge * side for edge, side in zip(edges, size[::-1] * 2, strict=True)]
            mine.append([*scaled, float(numbers[box.label]), float(box.crowd)])
        lists.append(mine)
    most = max(1, *map(len, lists)) if len(lists) > 1 else max(1, len(lists[0]))
    boxes = torch.zeros(len(lists), most, FIELDS)
    boxes[..., 4] = ABSENT
    for n, mine in enumerate(lists):
        if mine:
            boxes[n, : len(mine)] = torch.tensor(mine)
    return Kept(boxes, empty, cut)


def part(count: int, size: float | int, seed: int) -> tuple[list[int], list[int]]:
    """Split numbers from 0 to ``count - 1`` by chance; each part is in ascending order.

    Raises:
        InputError: nothing would remain.
    """
    taken = round(size * count) if 0 < size < 1 else int(size)
    require(taken < count, f"cannot split {taken} of {count} images off: nothing would remain; set a smaller size")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[taken:]), sorted(order[:taken])
