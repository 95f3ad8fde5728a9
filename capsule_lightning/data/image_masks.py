"""Images of one's own with masks: two folders, or a table."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.annotated import part, require_test_size
from capsule_lightning.data.listed_masks import ListedMasksDataModule
from capsule_lightning.data.mask_pairs import MaskPairs, chosen, pairs_in_folders, pairs_in_table
from capsule_lightning.data.mask_values import Meaning
from capsule_lightning.data.pictures import MOST_PIXELS, Reading
from capsule_lightning.errors import require


class ImageMaskDataModule(ListedMasksDataModule):
    """Image files and masks that say what each pixel shows, brought to one size.

    Images are read as `ImageDataModule` reads them. A mask has a whole number for each pixel: gray of 1, 8, 16 or 32
    bits, or the numbers of a palette, as PNG, TIFF, BMP, GIF, WEBP or PPM; where an image is enlarged or reduced, its
    mask takes the nearest pixel. What the values mean is stated by the options below, or concluded from the values of
    all masks in the two cases that leave no doubt; what was concluded, and how many pixels are ignored, is told before
    training. Masks of 0 and 255 alone: 255 is the object. 255 beside classes 1, 2, ...: it marks borders, which are
    ignored.

    Args:
        pictures: folder of the images.
        masks: folder of their masks, which lie at the same places and are called the same, whatever they end in.
        mask_suffix: what the name of a mask has behind that of its image, such as ``_mask``.
        table: in place of the folders, a CSV, TSV or Parquet file with columns ``path`` and ``mask``, relative to its
            folder, and, if it has one, ``split``, which says train, val or test.
        test_pictures: folder of images to test on; null to split ``test_size`` off.
        test_masks: folder of their masks.
        class_names: names of the classes, without the background; null for their values.
        class_values: the value of each class; null for 1, 2, ... if there are names, or else for all that are found.
        ignore_index: values of pixels that do not count; null to conclude it from the values, [] for none.
        background_index: the value of the background.
        image_size: rows and columns that images are brought to, whatever their shape.
        channels: 1 for gray, 3 for color.
        augmentation: augmentation of the training images, by which their masks are moved alike; what moves in is
            ignored. Null for none.
        test_size: number or fraction of the images that form the test set if there is none; the same for every seed.
        batch_size, val_size, seed: see `DataModule`; the split is by chance alone.
        images, background, invert, max_pixels: see `ImageDataModule`.

    Raises:
        InputError: files are missing or do not fit each other, values of masks mean nothing or may mean two things, or
            an option is out of range; the message names file or option.
    """

    name = "image_masks"

    def __init__(
        self,
        pictures: str | None = None,
        masks: str | None = None,
        mask_suffix: str = "",
        table: str | None = None,
        test_pictures: str | None = None,
        test_masks: str | None = None,
        class_names: list[str] | None = None,
        class_values: list[int] | None = None,
        ignore_index: list[int] | None = None,
        background_index: int = 0,
        image_size: int = 128,
        channels: int = 3,
        augmentation: Callable[[], Augmentation] | None = None,
        test_size: float | int = 0.2,
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
            Meaning(class_names, class_values, ignore_index, background_index),
            batch_size,
            val_size,
            seed,
            images,
            Reading(background, invert, max_pixels),
        )
        require(
            (pictures is not None and masks is not None) != (table is not None),
            "no masks are given: set --data.pictures and --data.masks to two folders, or --data.table to a CSV file",
        )
        require(
            (test_pictures is None) == (test_masks is None) and (table is None or test_masks is None),
            "test_pictures and test_masks are given together, and not with a table, whose column split says test",
        )
        require_test_size(test_size)
        self.test_size, self.suffix = test_size, mask_suffix
        self.folders = [None if each is None else Path(os.path.expanduser(each)) for each in (pictures, masks, table)]
        self.tests = [None if each is None else Path(os.path.expanduser(each)) for each in (test_pictures, test_masks)]

    @override
    def find_pairs(self) -> dict[str, MaskPairs]:
        pictures, masks, table = self.folders
        if table is not None:
            found = pairs_in_table(table)
        else:
            assert pictures is not None
            assert masks is not None
            found = pairs_in_folders(pictures, masks, self.suffix)
        self.told += found.notes
        stated = {
            split: [n for n, each in enumerate(found.parts) if each == split] for split in ("train", "val", "test")
        }
        splits = {split: chosen(found, places) for split, places in stated.items() if places}
        if found.parts:
            require("train" in splits, f"{table}: no row of column split says train; expected images to train on")
        rest = splits.get("train", found)
        test_pictures, test_masks = self.tests
        if test_pictures is not None and test_masks is not None:
            tests = pairs_in_folders(test_pictures, test_masks, self.suffix)
            self.told += tests.notes
            splits["test"] = tests
        if "test" not in splits:
            kept, taken = part(len(rest.images), self.test_size, 0)
            require(taken, f"test_size={self.test_size}: no image to test on of {len(rest.images)}; set a larger one")
            splits |= {"train": chosen(rest, kept), "test": chosen(rest, taken)}
        return {"train": rest, **splits}
