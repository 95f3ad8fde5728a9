"""What data sets share whose pictures and masks are files, a pair for each example."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.facts import Facts, describe_facts
from capsule_lightning.data.image_files import read_files, size_of
from capsule_lightning.data.loader import MemoryStore
from capsule_lightning.data.mask_files import read_masks, resized
from capsule_lightning.data.mask_pairs import MaskPairs
from capsule_lightning.data.mask_values import MaskCode
from capsule_lightning.data.module import Split
from capsule_lightning.data.paired_masks import PairedMasksDataModule
from capsule_lightning.errors import InputError, printable, require


class ListedMasksDataModule(PairedMasksDataModule):
    """Image files and mask files in pairs, brought to one size; a subclass finds the pairs."""

    @cached_property
    def met(self) -> dict[str, Facts]:
        """What was met in the images of each split that was read."""
        return {}

    @abstractmethod
    def find_pairs(self) -> dict[str, MaskPairs]:
        """Find the pairs of each split, ``train``, ``test`` and, if the files state it, ``val``; add to `told`."""

    @cached_property
    def pairs(self) -> dict[str, MaskPairs]:
        """What `find_pairs` has found."""
        return self.find_pairs()

    @cached_property
    @override
    def code(self) -> MaskCode:
        """What the values mean, of all masks of all splits.

        Raises:
            InputError: a mask cannot be read or has another size than its image; or what `code_of` refuses.
        """
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
        return self.code_from(counts, str(every[0][1].parent))

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
        """Hold out the images that the files state for validation, or else ``val_size`` images."""
        if "val" in self.pairs and self.val_size != 0:
            first = len(self.pairs["train"].images)
            return torch.arange(first), torch.arange(first, len(labels))
        return super().hold_out(labels)

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
