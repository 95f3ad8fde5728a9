"""What data modules share whose examples are pictures with more than a class: masks, boxes, whole scenes."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from typing_extensions import override

from capsule_lightning.data.image_files import size_of
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.pictures import Reading
from capsule_lightning.data.to_predict import read_to_predict
from capsule_lightning.errors import printable, require


class AnnotatedDataModule(DataModule):
    """Pictures and what is known about them; ``predict`` may be given pictures of one's own instead.

    Args:
        batch_size, val_size, seed: see `DataModule`.
        images: an image file, a folder of image files, or a table that lists them in a column ``path``, for
            ``predict``, in place of the test images; brought to the size of the network's input.
        reading: how image files become pictures.

    Attributes:
        shape: ``(C, H, W)`` of the network's input; a subclass sets it.
    """

    shape: tuple[int, int, int]

    def __init__(
        self,
        batch_size: int,
        val_size: float | int,
        seed: int | None,
        images: str | None,
        reading: Reading,
    ) -> None:
        super().__init__(batch_size, val_size, seed)
        require(images != "", "images='': expected an image file, or a folder of them")
        self.images = None if images is None else Path(os.path.expanduser(images))
        self.reading = reading
        self.predict_files: list[Path] = []

    @property
    @override
    def in_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of the network's input."""
        return self.shape

    @property
    def needs_originals(self) -> bool:
        """Whether the data set's own files are read; not if pictures of one's own are predicted."""
        return self.images is None or self.trainer is None or not self.trainer.predicting

    @override
    def setup(self, stage: str | None = None) -> None:
        if stage == "predict" and self.images is not None:
            found = read_to_predict(self.images, self.shape, self.reading)
            self.predict_files = found.files
            self.stores["predict"] = found.store
        else:
            super().setup(stage)

    @override
    def name_of(self, index: int) -> str:
        """Return the file of a predicted image, or its number in the test set."""
        return printable(str(self.predict_files[index])) if self.predict_files else super().name_of(index)

    def picture_size(self, index: int) -> tuple[int, int]:
        """Return rows and columns of the file of a predicted image, or else of the network's input."""
        if not self.predict_files:
            return self.shape[1], self.shape[2]
        return size_of(self.predict_files[index], self.reading)


def require_test_size(test_size: float | int) -> None:
    """Refuse a share of the images to test on that cannot be.

    Raises:
        InputError: it is neither a fraction below 1 nor a number.
    """
    require(
        test_size >= 0 and (not isinstance(test_size, float) or test_size < 1 or test_size.is_integer()),
        f"test_size={test_size}: expected a fraction below 1 or a number of images",
    )


def part(count: int, size: float | int, seed: int) -> tuple[list[int], list[int]]:
    """Split numbers from 0 to ``count - 1`` by chance; each part is in ascending order.

    Raises:
        InputError: nothing would remain.
    """
    taken = round(size * count) if 0 < size < 1 else int(size)
    require(taken < count, f"cannot split {taken} of {count} images off: nothing would remain; set a smaller size")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[taken:]), sorted(order[:taken])
