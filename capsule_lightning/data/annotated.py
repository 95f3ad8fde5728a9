"""What data modules share whose examples are pictures with more than a class: masks, boxes, whole scenes."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from capsule_lightning.data.base import unlabeled
from capsule_lightning.data.facts import describe_facts
from capsule_lightning.data.image_files import size_of
from capsule_lightning.data.loader import Store
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.own_pictures import read_own_pictures
from capsule_lightning.data.pictures import Reading
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

    @override
    def setup(self, stage: str | None = None) -> None:
        if stage == "predict" and self.images is not None:
            self.stores["predict"] = self._own_pictures(self.images)
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

    def _own_pictures(self, path: Path) -> Store:
        own = read_own_pictures(path, self.shape, self.reading)
        self.predict_files = own.files
        for line in describe_facts({"predict": own.facts}, self.reading, self.shape[0]):
            rank_zero_info(line)
        return unlabeled(own.images)
