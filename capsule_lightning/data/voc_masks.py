"""Pascal VOC's photographs with masks of 20 classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.listed_masks import ListedMasksDataModule
from capsule_lightning.data.mask_pairs import MaskPairs
from capsule_lightning.data.mask_values import BORDER, Meaning
from capsule_lightning.data.original_files import root_of
from capsule_lightning.data.pictures import MOST_PIXELS, Reading
from capsule_lightning.data.voc_sets import CLASSES, Year, fetch_voc, voc_folder, voc_names
from capsule_lightning.errors import require_one_of


class VOCMasksDataModule(ListedMasksDataModule):
    """Photographs of Pascal VOC with masks of 20 classes, as torchvision keeps the original files.

    These are ``<root>/VOCdevkit/VOC<year>/JPEGImages``, ``SegmentationClass`` and ``ImageSets/Segmentation``. Borders
    of objects, and what was too hard to mark, are 255 and do not count. Where the images to test on are not given out,
    those for validation are tested on, and ``val_size`` is taken off those to train on.

    Args:
        root: folder of the data; null for ``CAPSULE_LIGHTNING_DATA`` or ``data``.
        year: of the challenge; 2012 has 1,464 images to train on and 1,449 for validation.
        download: fetch the files, 2 GB, if they are not there.
        image_size, channels, augmentation, batch_size, val_size, seed, images, background, invert, max_pixels: see
            `ImageMaskDataModule`.

    Raises:
        InputError: files are missing or do not fit each other, or an option is out of range.
    """

    name = "voc_masks"

    def __init__(
        self,
        root: str | None = None,
        year: Year = "2012",
        download: bool = True,
        image_size: int = 128,
        channels: int = 3,
        augmentation: Callable[[], Augmentation] | None = None,
        batch_size: int = 8,
        val_size: float | int = 0.1,
        seed: int | None = None,
        images: str | None = None,
        background: str = "white",
        invert: bool = False,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        super().__init__(
            (channels, image_size, image_size),
            augmentation,
            Meaning(CLASSES, None, [BORDER]),
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
            fetch_voc(self.root, self.year, "Segmentation", self.download)

    @override
    def find_pairs(self) -> dict[str, MaskPairs]:
        folder = voc_folder(self.root, self.year)
        return {
            split: MaskPairs(
                [folder / "JPEGImages" / f"{name}.jpg" for name in names],
                [folder / "SegmentationClass" / f"{name}.png" for name in names],
                [],
                [],
            )
            for split, names in voc_names(folder, "Segmentation").items()
        }
