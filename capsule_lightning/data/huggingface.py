"""Data sets in the format of Hugging Face's library ``datasets``, on disk or from its hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.geometry import PaddedCrop
from capsule_lightning.data.base import Normalization
from capsule_lightning.data.fitting import Fit
from capsule_lightning.data.huggingface_files import find_parts, read_dataset
from capsule_lightning.data.image_files import read_files, require_size, size_of
from capsule_lightning.data.module import Split
from capsule_lightning.data.parted_images import PartedImagesDataModule, SplitPart
from capsule_lightning.data.pictures import MOST_PIXELS, UnreadableImageError
from capsule_lightning.data.regular_files import kind_of, open_regular
from capsule_lightning.errors import printable, require


class HuggingFaceDataModule(PartedImagesDataModule):
    """A data set of Hugging Face's library, with a column of images and one of labels.

    No code of a data set is ever run, and of a data set on disk only images that it holds itself are read. Splits have
    their usual names, such as ``train``, ``validation`` and ``test``; a ``ClassLabel`` names the classes. Images are
    decoded into the memory of each process. `PartedImagesDataModule` and `ImageDataModule` describe the arguments that
    are not listed.

    Args:
        path: a folder that ``save_to_disk`` has written; a folder with Parquet files that are called as their splits,
            such as ``train-00000-of-00002.parquet``; or else the name of a data set on the hub, which the library
            fetches and caches.
        subset: which of the data sets that go by that name on the hub; null for the usual one.
        revision: commit or tag on the hub, for the same data tomorrow; null for the newest.
        image_column: name of the column with the images.
        label_column: name of the column with the labels.
        image_size: rows and columns to which every image is brought; null to take the images as they are, all of one
            size.
        channels: 3 for color, 1 for gray.
        class_names: names of the classes, in the order of their labels; null for those of the data set.
        value_range: the values of images of 16 or 32 bits that become 0 and 1; null for bytes.

    Raises:
        InputError: ``datasets`` is not installed; there is no such data set, split or column; images cannot be read.
    """

    name = "huggingface"
    usual_augmentation: ClassVar[Callable[[], Augmentation]] = PaddedCrop
    usual_normalization: ClassVar[Normalization] = "channel"

    def __init__(
        self,
        path: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        image_column: str = "image",
        label_column: str = "label",
        image_size: tuple[int, int] | None = None,
        channels: int = 3,
        class_names: list[str] | None = None,
        value_range: tuple[float, float] | None = None,
        test_size: float | int = 0.2,
        folds: int | None = None,
        fold: int = 0,
        batch_size: int = 128,
        val_size: float | int = 0.1,
        seed: int | None = None,
        augmentation: Callable[[], Augmentation] | None = None,
        normalization: Normalization | None = None,
        images: str | None = None,
        background: str = "white",
        invert: bool = False,
        max_pixels: int = MOST_PIXELS,
        skip_damaged: bool = False,
        balanced: bool = False,
        fit: Fit = "squeeze",
    ) -> None:
        super().__init__(
            test_size,
            batch_size,
            val_size,
            seed,
            augmentation,
            normalization,
            images,
            background,
            invert,
            max_pixels,
            skip_damaged,
            balanced,
            fit,
            folds,
            fold,
        )
        require(path, "no data set is given: set --data.path to a folder, or to the name of a data set on the hub")
        require_size(channels, image_size, max_pixels)
        self.keep_values(value_range)
        self.path, self.image_size = str(path), image_size
        self._is_local, self._column = kind_of(os.path.expanduser(self.path)) == "folder", image_column
        found = find_parts(read_dataset(self.path, subset, revision), self.path, image_column, label_column)
        self._others = found.others
        self.take_parts(found.parts, class_names or found.class_names)
        train = found.parts["train"]
        size = image_size or size_of(self._title_of(train, 0), self.reading, self._content(train, 0))
        self.stored_shape = (channels, *size)

    @property
    @override
    def title(self) -> str:
        return self.path

    @override
    def describe(self) -> str:
        left = f"left out: {', '.join(self._others)}, which have no usual names of splits, or no labels"
        return super().describe() + (f"\n  {printable(left)}" if self._others else "")

    @override
    def pictures(self, split: Split, parts: Sequence[SplitPart]) -> tuple[Tensor, list[int]]:
        rows = [(part, place) for part in parts for place in part.places.tolist()]
        titles = [self._title_of(part, place) for part, place in rows]

        def content_of(number: int) -> bytes:
            return self._content(*rows[number])

        read = read_files(titles, self.stored_shape, self.image_size is not None, self.reading, content_of)
        deep = [mode for mode in read.facts.modes if mode.startswith("gray of")]
        require(
            not deep or self.reading.values is not None,
            f"{self.path}: has images that are {', '.join(deep)}; set --data.value_range to the values that become 0 "
            'and 1, such as "[0,65535]"',
        )
        self.met[split] = read.facts
        return read.images, read.kept

    def _title_of(self, part: SplitPart, place: int) -> Path:
        return Path(f"{self.path}, {part.name} image {place}")

    def _content(self, part: SplitPart, place: int) -> bytes:
        """Return the content of an image file.

        Raises:
            UnreadableImageError: there is none, or it is in another file, and the data set is not of the hub.
        """
        cell = part.images[place][self._column]
        if cell is None:
            raise UnreadableImageError(self._title_of(part, place), "there is none")
        content, path = cell["bytes"], cell["path"]
        if content is None and self._is_local:
            reason = f"is not in the data set, which names {path}"
            raise UnreadableImageError(self._title_of(part, place), reason, "save it with the images in it")
        if content is None:  # where the library has fetched it to
            with open_regular(path) as file:
                content = file.read()
        return bytes(content)
