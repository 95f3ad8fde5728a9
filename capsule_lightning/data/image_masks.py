"""Images of one's own with masks: two folders, or a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.annotated import AnnotatedDataModule
from capsule_lightning.data.boxes import part
from capsule_lightning.data.facts import Facts, describe_facts
from capsule_lightning.data.image_files import read_files, require_size, size_of
from capsule_lightning.data.loader import MemoryStore, StoredBatch
from capsule_lightning.data.mask_files import read_masks, resized
from capsule_lightning.data.mask_pairs import MaskPairs, chosen, pairs_in_folders, pairs_in_table
from capsule_lightning.data.mask_values import MaskCode, code_of
from capsule_lightning.data.module import Split
from capsule_lightning.data.pictures import MOST_PIXELS, Reading
from capsule_lightning.data.targets import IGNORE, MaskBatch
from capsule_lightning.errors import InputError, printable, require


class ImageMaskDataModule(AnnotatedDataModule):
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
        super().__init__(batch_size, val_size, seed, images, Reading(background, invert, max_pixels))
        require(
            (pictures is not None and masks is not None) != (table is not None),
            "no masks are given: set --data.pictures and --data.masks to two folders, or --data.table to a CSV file",
        )
        require(
            (test_pictures is None) == (test_masks is None) and (table is None or test_masks is None),
            "test_pictures and test_masks are given together, and not with a table, whose column split says test",
        )
        require_size(channels, (image_size, image_size), max_pixels)
        require(image_size >= 8, f"image_size={image_size}: expected at least 8 pixels")
        require(
            test_size >= 0 and (not isinstance(test_size, float) or test_size < 1 or test_size.is_integer()),
            f"test_size={test_size}: expected a fraction below 1 or a number of images",
        )
        self.shape = (channels, image_size, image_size)
        self.augmentation = NoAugmentation() if augmentation is None else augmentation()
        changed = self.augmentation.out_shape(self.shape)
        require(
            self.augmentation.moves_masks and changed == self.shape and not self.augmentation.mixes,
            f"augmentation={type(self.augmentation).__name__}: masks cannot follow it; expected one that moves pixels "
            "and keeps the size, such as Affine, Shift, PaddedCrop, Mirror, or a Chain of these",
        )
        self.test_size, self.told = test_size, []  # type: tuple[float | int, list[str]]
        self.met: dict[str, Facts] = {}
        self.named, self.valued = class_names, class_values
        self.ignored, self.ground = ignore_index, background_index
        self.suffix = mask_suffix
        self.folders = [None if each is None else Path(os.path.expanduser(each)) for each in (pictures, masks, table)]
        self.tests = [None if each is None else Path(os.path.expanduser(each)) for each in (test_pictures, test_masks)]

    @cached_property
    def pairs(self) -> dict[str, MaskPairs]:
        """The images of each split, ``train``, ``test`` and, if a table states it, ``val``."""
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

    @cached_property
    def code(self) -> MaskCode:
        """What the values mean, of all masks of all splits."""
        counts: Counter[int] = Counter()
        every = [each for pairs in self.pairs.values() for each in zip(pairs.images, pairs.masks, strict=True)]
        for (picture, mask), values in zip(every, read_masks([mask for _, mask in every], self.reading), strict=True):
            size = size_of(picture, self.reading)
            require(
                values.shape == size,
                f"{mask}: {values.shape[0]}x{values.shape[1]} pixels, and {picture} has {size[0]}x{size[1]}: the mask "
                "of another picture? give it that of its own",
            )
            found, numbers = np.unique(values, return_counts=True)
            counts.update(dict(zip(found.tolist(), numbers.tolist(), strict=True)))
        source = str(self.folders[1] or self.folders[2])
        code = code_of(sorted(counts), source, self.named, self.valued, self.ignored, self.ground)
        total, ignored = counts.total(), [value for value, label in code.labels.items() if label == IGNORE]
        self.told += [code.note] if code.note else []
        if ignored:
            share = sum(counts[value] for value in ignored) / total
            self.told.append(f"ignored: value {', '.join(map(str, ignored))}, {100 * share:.1f} % of the pixels")
        else:
            self.told.append("ignored: nothing")
        shares = {
            name: sum(counts[value] for value, label in code.labels.items() if label == number) / total
            for number, name in enumerate(["background", *code.class_names])
        }
        self.told.append("pixels: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))
        return code

    @property
    @override
    def class_names(self) -> list[str]:  # type: ignore[override]
        """Names of the classes, without the background; all masks are read for it, unless names are stated."""
        return self.named or self.code.class_names

    @property
    @override
    def num_draws(self) -> int:
        return self.augmentation.num_draws

    @override
    def open(self, split: Split) -> MemoryStore:
        """Return images and masks of a split, checked."""
        code, pairs = self.code, self.pairs[split]
        if split == "train" and "val" in self.pairs and self.val_size != 0:
            more = self.pairs["val"]
            pairs = MaskPairs(pairs.images + more.images, pairs.masks + more.masks, [], [])
        read = read_files(pairs.images, self.shape, resize=True, reading=self.reading)
        self.met[split] = read.facts
        masks = np.empty((len(pairs.masks), *self.shape[1:]), dtype=np.int16)
        for number, values in enumerate(read_masks(pairs.masks, self.reading)):
            unknown = set(np.unique(values).tolist()) - set(code.labels)
            if unknown:
                raise InputError(f"{pairs.masks[number]}: value {min(unknown)} is new since the masks were first read")
            masks[number] = code.encode(resized(values, self.in_shape[1:]))
        return MemoryStore(read.images, torch.from_numpy(masks))

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        if "val" in self.pairs and self.val_size != 0:
            first = len(self.pairs["train"].images)
            return torch.arange(first), torch.arange(first, len(labels))
        kept, taken = part(len(labels), self.val_size, self.seed)
        return torch.tensor(kept), torch.tensor(taken, dtype=torch.int64)

    @override
    def class_counts(self) -> Tensor:
        """Return how many pixels of each class are trained on, ``(J)`` int64, without the background."""
        labels = self.store("train").labels.cpu()[self._train]
        return torch.bincount(labels[labels > 0].long() - 1, minlength=self.num_classes)

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | MaskBatch, dataloader_idx: int) -> MaskBatch:
        """Augment images and masks alike, on the device."""
        if isinstance(batch, MaskBatch):
            return batch
        pictures, masks = batch.inputs.float() / 255, batch.labels.long()
        if masks.ndim == 1:  # pictures of one's own
            masks = torch.full_like(pictures[:, 0], IGNORE, dtype=torch.int64)
        if batch.draws is not None:
            masks = self.augmentation.train_masks(masks, batch.draws)
            pictures = self.augmentation.train(pictures, batch.draws)
        return MaskBatch(pictures, pictures.clamp(0, 1), masks, batch.indices)

    @override
    def name_of(self, index: int) -> str:
        """Return the file of an image of a test or a prediction."""
        if self.predict_files:
            return super().name_of(index)
        return printable(str(self.pairs["test"].images[index]))

    @override
    def describe(self) -> str:
        """Return what has been read so far: images, classes, what is ignored, and whatever was left out."""
        first = f"masks of {self.num_classes} classes, images {self.in_shape}; {self.describe_splits()}"
        lines = [first, *map(printable, self.told), *describe_facts(self.met, self.reading, self.shape[0])]
        return "\n  ".join(lines)
