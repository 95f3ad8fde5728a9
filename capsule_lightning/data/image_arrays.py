"""A data set of one's own images that lie in arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.geometry import PaddedCrop
from capsule_lightning.data.array_labels import read_labels
from capsule_lightning.data.array_pictures import Coding, coding_of, layout_of, pictures_of, require_layout
from capsule_lightning.data.base import Normalization
from capsule_lightning.data.deep_pictures import require_range
from capsule_lightning.data.fitting import Fit
from capsule_lightning.data.module import Split
from capsule_lightning.data.named_arrays import ANY, PAIRS, NamedArrays, StoredArray
from capsule_lightning.data.parted_images import SPLITS, PartedImagesDataModule, SplitPart
from capsule_lightning.data.pictures import MOST_PIXELS
from capsule_lightning.data.shares import require_weights
from capsule_lightning.errors import InputError, printable, require, some_of

SPLIT_ARRAY = "split"
"""Name of the array that has the split of each image, where one array has the images of all."""
WEIGHTS = "weights"
"""Name of the array that has the weight of each image, after that of a split if each has arrays of its own."""


class ImageArrayDataModule(PartedImagesDataModule):
    """Images in arrays: in one ``.npz``, MATLAB or HDF5 file, or in the ``.npy`` files of a folder.

    The arrays are called ``train_images``, ``train_labels``, ``val_images``, ..., ``test_labels``, as in MedMNIST (Yang
    et al., MedMNIST v2, Scientific Data 2023); ``x_train``, ``y_train``, ``x_test``, ``y_test``, as in Keras; or
    ``images`` and ``labels`` or ``X`` and ``y``, all in one, beside which ``split`` may have a word for each image:
    train, val or test. If there are images to validate on, they are, whatever number ``val_size`` is above 0; if there
    are none to test on, ``test_size`` of those to train on are split off.

    Images are ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``, of any number of channels. Nothing of them is cut
    off: they are kept as bytes if they are uint8 or bool, whole numbers from 0 to 255, or 255ths from 0 to 1, and else
    as floats on a scale from 0 to 1, see ``value_range``. What was done is told before training. Labels are whole
    numbers or words, ``(N)`` or ``(N, 1)``, or columns of 0 and 1, ``(N, J)``: images then have the class of the column
    with the 1, or any number of classes, none included, as `LabelSetTask` takes them. ``weights``, or ``train_weights``
    where each split has arrays of its own, are numbers of 0 or more, ``(N)``: the loss of each image to train on is
    multiplied by its weight, whose mean over them counts as 1. MATLAB's arrays may have the images along their last
    dimension, and labels ``(1, N)``.

    Bytes in ``.npy`` files, channels first or none, are memory-mapped where no test set is split off, so that processes
    share them. Everything else is read into the memory of each process. `ImageDataModule` describes the arguments that
    are not listed.

    Args:
        path: an ``.npz``, ``.mat`` or HDF5 file, or a folder of ``.npy`` files.
        images_name, labels_name: names of the arrays if they have others than those above, with ``{}`` in place of
            train, val and test if each split has its own; both or neither.
        channels_last: whether images of three dimensions have their channels last; null to judge by the shape.
        class_names: names of the classes, in the order of their labels; null for the labels themselves, in ascending
            order.
        value_range: the values that become 0 and 1; null for 0 and 1 if those to train on are floats from 0 to 1, for 0
            and 255 if they are from 0 to 255, and else for the smallest and the largest of them.
        test_size: number or fraction of the images that form the test set if there is none; the choice is stratified
            and the same for every seed.
        folds: number of parts, stratified and the same for every seed, one of which is the test set in place of
            ``test_size`` images; null for none.
        fold: which of the ``folds`` parts to test on, from 0.
        several_labels: whether images may have any number of classes; null for yes if some image has several, or none.

    Raises:
        InputError: there are no such arrays, they do not fit each other, they hold something else, or a value is out of
            range.
    """

    name = "image_arrays"
    usual_augmentation: ClassVar[Callable[[], Augmentation]] = PaddedCrop
    usual_normalization: ClassVar[Normalization] = "channel"
    _coding: Coding | None = None

    def __init__(
        self,
        path: str | None = None,
        images_name: str | None = None,
        labels_name: str | None = None,
        channels_last: bool | None = None,
        class_names: list[str] | None = None,
        test_size: float | int = 0.2,
        folds: int | None = None,
        fold: int = 0,
        several_labels: bool | None = None,
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
        value_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(
            test_size,
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
            folds=folds,
            fold=fold,
        )
        if value_range is not None:
            require_range(value_range)
            self.keep_values(value_range)
        require(
            path,
            "no file of arrays is given: set --data.path to an .npz, .mat or HDF5 file, or to a folder of .npy files",
        )
        require(
            (images_name is None) == (labels_name is None),
            f"images_name={images_name}, labels_name={labels_name}: expected both names, or neither",
        )
        self.path = Path(os.path.expanduser(str(path)))
        arrays = NamedArrays(self.path)
        parts_of = find_parts(arrays, None if images_name is None else (images_name, str(labels_name)))
        self.layout = layout_of(parts_of["train"].images, channels_last)
        for part in parts_of.values():
            require_layout(part.images, self.layout)
        self.stored_shape = self.layout.shape
        self.take_parts(parts_of, class_names, several_labels)

    @override
    def pictures(self, split: Split, parts: Sequence[SplitPart]) -> tuple[Tensor, list[int]]:
        places = [(part.images, part.places) for part in parts]
        found = pictures_of(places, self.layout, self._code(), self.reading.invert)
        return found, [*range(len(found))]

    @property
    @override
    def title(self) -> str:
        return str(self.path)

    @override
    def describe(self) -> str:
        dims = f"images {self._parts_of['train'].images.shape} are taken as {self.layout.in_words()}"
        columns = self._parts_of["train"].labels.num_columns
        notes = [f"{dims} (--data.channels_last)" if self.layout.channels != "none" else dims]
        notes += [self._coding.note] if self._coding is not None and self._coding.note else []
        notes += [f"labels are the columns, of {columns}, that have a 1"] if columns is not None else []
        given = self._parts_of["train"].weights
        notes += [] if given is None else [f"weights of images to train on from {given.min():g} to {given.max():g}"]
        return super().describe() + "".join(f"\n  {printable(note)}" for note in notes)

    @override
    def keep_values(self, values: Sequence[float] | None) -> None:
        super().keep_values(values)
        if self._coding is not None and self._coding.between != self.reading.values:
            self._coding = None
            self.reopen()

    def _code(self) -> Coding:
        """Return how values become bytes, found out once for all images of the file."""
        if self._coding is None:
            arrays = {part.images.title: part.images for part in self._parts_of.values()}
            self._coding = coding_of([*arrays.values()], self.reading.values)
            if self._coding.between is not None:
                self.keep_values(self._coding.between)
        return self._coding


def find_parts(arrays: NamedArrays, names: tuple[str, str] | None) -> dict[str, SplitPart]:
    """Return the images and labels of each split that there is, by ``train``, ``val`` and ``test``.

    Args:
        arrays: where they are looked for.
        names: of images and labels; None for those of `PAIRS`.

    Raises:
        InputError: some are missing, or have other numbers of examples.
    """
    pairs = PAIRS if names is None else (names,)
    pair = next((pair for pair in pairs if pair[0].replace(ANY, "train") in arrays), None)
    if pair is None:
        wanted = "train_images and train_labels, x_train and y_train, images and labels, or X and y"
        there = some_of([repr(name) for name in arrays.names]) if arrays.names != [""] else "one array without a name"
        raise InputError(
            f"{arrays.path}: expected {wanted if names is None else f'{names[0]} and {names[1]}'}; there are {there}; "
            "name them with --data.images_name and --data.labels_name"
        )
    if ANY in pair[0]:
        there_are = [split for split in SPLITS if pair[0].replace(ANY, split) in arrays]
        return {split: pair_of(arrays, *(name.replace(ANY, split) for name in pair)) for split in there_are}
    whole = pair_of(arrays, *pair)
    return parted(whole, arrays[SPLIT_ARRAY]) if SPLIT_ARRAY in arrays else {"train": whole}


def pair_of(arrays: NamedArrays, images_name: str, labels_name: str) -> SplitPart:
    """Return images and their labels.

    Raises:
        InputError: one of them is missing, or there are more of one than of the other.
    """
    images, labels = arrays[images_name], arrays[labels_name]
    if labels.is_matlab:
        images, labels = _examples_first(images, labels)
    require(
        images.shape[0] == labels.shape[0],
        f"{arrays.path}: {images_name} has {images.shape[0]:,} images and {labels_name} {labels.shape[0]:,} labels; "
        "expected as many",
    )
    name = images.member or images.path.name
    weights = read_weights(arrays, images_name)
    return SplitPart(images, torch.arange(images.shape[0]), read_labels(labels), name, weights)


def read_weights(arrays: NamedArrays, images_name: str) -> Tensor | None:
    """Return the weights of images ``(N)`` float64; None if there are none.

    Raises:
        InputError: there are more or fewer than images, or they are no weights.
    """
    name = next((f"{split}_{WEIGHTS}" for split in SPLITS if split in images_name.split("_")), WEIGHTS)
    if name not in arrays:
        return None
    found, count = arrays[name], arrays[images_name].shape[0]
    require(
        found.shape in ((count,), (count, 1)) and found.dtype.kind in "biuf",
        f"{found.title}: holds {found.shape} {found.dtype}; expected a number for each of {count:,} images",
    )
    return require_weights(torch.from_numpy(found.read().astype(np.float64).reshape(count)), found.title)


def _examples_first(images: StoredArray, labels: StoredArray) -> tuple[StoredArray, StoredArray]:
    """Return images and labels of MATLAB, where the last dimension may number them, with the first doing so.

    Raises:
        InputError: it may be the first or the last.
    """
    if labels.shape[0] == 1:
        labels = labels.last_first()
    count = labels.shape[0]
    if images.shape[-1] != count:
        return images, labels
    require(
        images.shape[0] != count,
        f"{images.title}: cannot tell whether the first or the last dimension of {images.shape} numbers the images; "
        "take one image more or fewer",
    )
    return images.last_first(), labels


def parted(whole: SplitPart, words: StoredArray) -> dict[str, SplitPart]:
    """Part images by the word that each has.

    Args:
        whole: N images.
        words: ``(N)``, train, val or test.

    Raises:
        InputError: there are other words, or more or fewer; none is to train on.
    """
    require(
        words.shape == (len(whole.places),) and words.dtype.kind in "US",
        f"{words.title}: holds {words.shape} {words.dtype}; expected a word for each of {len(whole.places):,} images: "
        "train, val or test",
    )
    found = read_labels(words).values
    unknown = sorted({str(word) for word in found} - set(SPLITS))
    require(not unknown, f"{words.title}: has {some_of(unknown)}; expected train, val or test")
    places = {split: torch.from_numpy((found == split).nonzero()[0]) for split in SPLITS}
    require(len(places["train"]), f"{words.title}: has no image to train on; expected the word train")
    return {split: whole.some(places[split]) for split in SPLITS if len(places[split])}
