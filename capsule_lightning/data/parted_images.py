"""What data sets share whose images are known by their places in a file, split or not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.array_labels import Classes, Labels, classes_of, classes_of_columns
from capsule_lightning.data.base import ImageDataModule, Normalization
from capsule_lightning.data.division import Division
from capsule_lightning.data.fitting import Fit
from capsule_lightning.data.module import Split
from capsule_lightning.data.pictures import MOST_PIXELS
from capsule_lightning.data.prepared import Images
from capsule_lightning.data.split_folders import Part
from capsule_lightning.errors import require

SPLITS = ("train", "val", "test")


class SplitPart(NamedTuple):
    """Images of a split.

    Attributes:
        images: what they are in, and is called ``title``.
        places: ``(M)`` int64, ascending: their rows.
        labels: ``(M)``, those of the rows.
        name: what the split is called.
        weights: ``(M)`` float64, how much each counts in the loss; None if all count the same.
    """

    images: Any
    places: Tensor
    labels: Labels
    name: str
    weights: Tensor | None = None

    def some(self, chosen: Tensor) -> SplitPart:
        """Return the images at positions ``(K)`` int64, ascending, of this part."""
        weights = None if self.weights is None else self.weights[chosen]
        return self._replace(places=self.places[chosen], labels=self.labels.some(chosen), weights=weights)


class PartedImagesDataModule(ImageDataModule):
    """Images of up to three splits, kept in memory.

    If there are images to validate on, they are, whatever number ``val_size`` is above 0; if there are none to test on,
    ``test_size`` of those to train on are split off. `ImageDataModule` describes the arguments that are not listed.

    A subclass implements `pictures`, and calls `take_parts` in its constructor.

    Args:
        test_size: number or fraction of the images that form the test set if there is none; the choice is stratified
            and the same for every seed.
        folds: number of parts, stratified and the same for every seed, one of which is the test set in place of
            ``test_size`` images; null for none.
        fold: which of the ``folds`` parts to test on, from 0.

    Raises:
        InputError: a value is out of range.
    """

    def __init__(
        self,
        test_size: float | int = 0.2,
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
        folds: int | None = None,
        fold: int = 0,
    ) -> None:
        super().__init__(
            None,
            batch_size,
            val_size,
            seed,
            augmentation,
            normalization,
            images=images,
            background=background,
            invert=invert,
            max_pixels=max_pixels,
            skip_damaged=skip_damaged,
            balanced=balanced,
            fit=fit,
        )
        self.division = Division(test_size, folds, fold)

    def take_parts(
        self,
        parts_of: Mapping[str, SplitPart],
        class_names: Sequence[str] | None,
        several_labels: bool | None = False,
    ) -> None:
        """Take over the splits that there are, and refuse labels that no image to train on has.

        Args:
            parts_of: by ``train``, ``val`` and ``test``, the first of which is there.
            class_names: see `classes_of`.
            several_labels: whether images may have any number of classes; None for yes if some image has several, or
                none.

        Raises:
            InputError: the labels of the splits do not fit each other, or the names; or the data cannot be divided.
        """
        own: tuple[Part, Part] = ("val", "test")
        self.division.require_possible({part: parts_of[part].name for part in own if part in parts_of})
        self._parts_of = dict(parts_of)
        self.is_split_off = "test" not in parts_of
        single = all(part.labels.is_single for part in parts_of.values())
        require(
            single or several_labels is not False,
            f"several_labels=false: {self.title} gives some images several classes, or none; leave it out to train on "
            "any number of them",
        )
        several = not single if several_labels is None else several_labels
        require(
            not (several and self.balanced),
            "balanced=true: images of any number of classes are not drawn by class; set it to false",
        )
        self.num_labels = 0 if several else 1
        find = classes_of_columns if several else classes_of
        self._classes: Classes = find(parts_of["train"].labels, class_names)
        self.class_names = list(self._classes.names)
        for part in parts_of.values():
            self._numbered(part.labels)
        self.division.require_enough(self._numbered(parts_of["train"].labels), self.class_names)

    def _numbered(self, labels: Labels) -> Tensor:
        """Return the classes of images, ``(N)`` int64, or ``(N, L)`` if they may have any number."""
        if self.num_labels == 1:
            return self._classes.numbered(labels)
        require(
            labels.num_columns == len(self.class_names),
            f"{labels.title}: has {labels.num_columns or 1} columns; expected {len(self.class_names)}, as to train on",
        )
        return labels.padded(max(part.labels.most for part in self._parts_of.values()))

    @abstractmethod
    def pictures(self, split: Split, parts: Sequence[SplitPart]) -> tuple[Tensor, list[int]]:
        """Return pictures ``(M, C, H, W)``, part after part, and which of all N they are: some may be damaged."""

    @override
    def load(self, split: Split) -> Images:
        parts = self._parts_to(split)
        labels = torch.cat([self._numbered(part.labels) for part in parts])
        images, kept = self.pictures(split, parts)
        if split == "train" and len(parts) > 1:
            self._val_begins = sum(number < len(parts[0].places) for number in kept)
        if split == "train":
            self._kept = kept
        return Images(images, labels[kept])

    @override
    def example_weights(self) -> Tensor | None:
        if self._parts_of["train"].weights is None:
            return None
        given = [(part.weights, len(part.places)) for part in self._parts_to("train")]
        weights = [torch.ones(count) if weights is None else weights for weights, count in given]
        return torch.cat(weights)[self._kept]

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Hold out the images to validate on, which come last, or else ``val_size`` images."""
        if "val" not in self._parts_of or self.val_size == 0:
            return super().hold_out(labels)
        indices = torch.arange(len(labels))
        return indices[: self._val_begins], indices[self._val_begins :]

    @override
    def describe(self) -> str:
        if len(self._train):
            self.store("test")
        return super().describe()

    @override
    def origin_of(self, part: str) -> str:
        if part == "val" and "val" in self._parts_of:
            return f" ({self._parts_of['val'].name})"
        split_off = part == "test" and self.is_split_off
        return f" ({self.division})" if split_off else super().origin_of(part)

    def _parts_to(self, split: Split) -> list[SplitPart]:
        """Return the images of a split; those to validate on are the last of the training set."""
        train, val = self._parts_of["train"], self._parts_of.get("val")
        if self.is_split_off:
            kept, taken = self.division.off(self._numbered(train.labels), self.title, self.class_names)
            train, test = train.some(kept), train.some(taken)
        else:
            test = self._parts_of["test"]
        if split == "test":
            return [test]
        return [train] if val is None or self.val_size == 0 else [train, val]
