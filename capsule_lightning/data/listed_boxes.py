"""What data sets share whose pictures are files, each with boxes of its objects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.chain import Chain, Mirror
from capsule_lightning.data.annotated import AnnotatedDataModule, part
from capsule_lightning.data.box_files import Annotated
from capsule_lightning.data.image_files import read_images, size_of
from capsule_lightning.data.loader import MemoryStore, StoredBatch
from capsule_lightning.data.module import Split
from capsule_lightning.data.moved_labels import moved_boxes, require_followed
from capsule_lightning.data.pictures import Reading
from capsule_lightning.data.targets import ABSENT, BoxBatch
from capsule_lightning.errors import printable, require, some_of

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


class ListedBoxesDataModule(AnnotatedDataModule):
    """Image files and the boxes of their objects, brought to one size; a subclass finds them.

    Args:
        shape: ``(C, H, W)`` of the network's input.
        mirror: mirror half of the training images, left and right, with their boxes.
        augmentation: makes the augmentation of training images besides; None for none.
        batch_size, val_size, seed, images, reading: see `AnnotatedDataModule`.

    Raises:
        InputError: an option is out of range, or boxes cannot follow the augmentation.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        mirror: bool,
        augmentation: Callable[[], Augmentation] | None,
        batch_size: int,
        val_size: float | int,
        seed: int | None,
        images: str | None,
        reading: Reading,
    ) -> None:
        super().__init__(batch_size, val_size, seed, images, reading)
        require(shape[1] >= 8, f"image_size={shape[1]}: expected at least 8 pixels")
        require(shape[0] in (1, 3), f"channels={shape[0]}: expected 1 for gray or 3 for color")
        self.shape = shape
        self.augmentation = Chain([*([Mirror] if mirror else []), *([augmentation] if augmentation else [])])
        require_followed(self.augmentation, shape, "boxes")
        self.told: list[str] = []

    @abstractmethod
    def find_sets(self) -> Mapping[str, Sequence[Annotated]]:
        """Find the images of each split, ``train``, ``test`` and, if the files state it, ``val``."""

    @cached_property
    def sets(self) -> Mapping[str, Sequence[Annotated]]:
        """What `find_sets` has found."""
        return self.find_sets()

    @property
    @override
    def num_draws(self) -> int:
        return self.augmentation.num_draws

    @override
    def open(self, split: Split) -> MemoryStore:
        """Return images and boxes of a split, checked.

        Raises:
            InputError: an image is missing or has another size than is stated, or a class is not among the names.
        """
        found = [*self.sets[split]]
        if split == "train" and "val" in self.sets and self.val_size != 0:
            found += self.sets["val"]
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
        """Hold out the images that the files state for validation, or else ``val_size`` images."""
        if "val" in self.sets and self.val_size != 0:
            first = len(self.sets["train"])
            return torch.arange(first), torch.arange(first, len(labels))
        kept, taken = part(len(labels), self.val_size, self.seed)
        return torch.tensor(kept), torch.tensor(taken, dtype=torch.int64)

    @override
    def class_counts(self) -> Tensor:
        labels = self.store("train").labels.cpu()[self._train][..., 4].long()
        return torch.bincount(labels[labels >= 0], minlength=self.num_classes)

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | BoxBatch, dataloader_idx: int) -> BoxBatch:
        """Augment training images and their boxes alike, on the device."""
        if isinstance(batch, BoxBatch):
            return batch
        pictures, stored = batch.inputs.float() / 255, batch.labels
        if stored.ndim == 1:  # pictures of one's own
            stored = pictures.new_zeros(len(pictures), 1, FIELDS)
            stored[..., 4] = ABSENT
        boxes, labels, crowd = stored[..., :4], stored[..., 4].long(), stored[..., 5] > 0
        if batch.draws is not None:
            size = pictures.shape[-2], pictures.shape[-1]
            boxes, labels, crowd = moved_boxes(boxes, labels, crowd, self.augmentation, batch.draws, size)
            pictures = self.augmentation.train(pictures, batch.draws)
        return BoxBatch(pictures, pictures.clamp(0, 1), boxes, labels, crowd, batch.indices)

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
