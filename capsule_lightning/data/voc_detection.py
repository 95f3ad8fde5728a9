"""Pascal VOC's photographs with boxes of 20 classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.box_files import Annotated
from capsule_lightning.data.listed_boxes import ListedBoxesDataModule
from capsule_lightning.data.original_files import root_of
from capsule_lightning.data.pictures import MOST_PIXELS, Reading
from capsule_lightning.data.voc_boxes import read_file
from capsule_lightning.data.voc_sets import CLASSES, Year, fetch_voc, voc_folder, voc_names
from capsule_lightning.errors import require_one_of


class VOCBoxesDataModule(ListedBoxesDataModule):
    """Photographs of Pascal VOC with boxes of 20 classes, as torchvision keeps the original files.

    These are ``<root>/VOCdevkit/VOC<year>/JPEGImages``, ``Annotations`` and ``ImageSets/Main``. In an object that is
    marked as difficult nothing counts as wrong. Where the images to test on are not given out, as those of 2007 are,
    those for validation are tested on, and ``val_size`` is taken off those to train on.

    Args:
        root: folder of the data; null for ``CAPSULE_LIGHTNING_DATA`` or ``data``.
        year: of the challenge; 2007 has 5,011 images to train and validate on and 4,952 to test on.
        download: fetch the files, 1 to 2 GB, if they are not there.
        image_size, channels, mirror, augmentation, batch_size, val_size, seed, images, background, invert, max_pixels:
            see `BoxesDataModule`.

    Raises:
        InputError: a file is missing or states something else, which the message names; a value is out of range.
    """

    name = "voc_boxes"
    class_names = CLASSES

    def __init__(
        self,
        root: str | None = None,
        year: Year = "2007",
        download: bool = True,
        image_size: int = 128,
        channels: int = 3,
        mirror: bool = True,
        augmentation: Callable[[], Augmentation] | None = None,
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
        require_one_of("year", year, get_args(Year))
        self.root, self.year, self.download = root_of(root), year, download

    @override
    def prepare_data(self) -> None:
        if self.needs_originals:
            fetch_voc(self.root, self.year, "Main", self.download)

    @override
    def find_sets(self) -> Mapping[str, Sequence[Annotated]]:
        folder = voc_folder(self.root, self.year)
        return {
            split: [read_file(folder / "Annotations" / f"{name}.xml", folder / "JPEGImages") for name in names]
            for split, names in voc_names(folder, "Main").items()
        }
