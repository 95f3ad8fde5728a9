"""affNIST: train on MNIST digits moved about a 40x40 canvas, test on digits that are also rotated, scaled and sheared.

Tieleman, affNIST, 2013 (https://www.cs.toronto.edu/~tijmen/affNIST/). Sabour, Frosst & Hinton, Dynamic Routing Between
Capsules, NIPS 2017 (arXiv 1710.09829), section 5.2.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.geometry import Shift, shift
from capsule_lightning.data import prepared
from capsule_lightning.data.base import Normalization
from capsule_lightning.data.fitting import Fit
from capsule_lightning.data.loader import ExactLoader, MemoryStore
from capsule_lightning.data.matlab_arrays import matlab_struct
from capsule_lightning.data.mnist import MNISTDataModule
from capsule_lightning.data.module import Split
from capsule_lightning.data.named import ArrayLike, NamedDataModule, as_images
from capsule_lightning.data.pictures import MOST_PIXELS
from capsule_lightning.data.prepared import Images
from capsule_lightning.data.regular_files import kind_of, open_regular
from capsule_lightning.errors import InputError, require

TestSet = Literal["affnist", "mnist"]

URL = "https://www.cs.toronto.edu/~tijmen/affNIST/32x/transformed/test.mat.zip"
SIZE = 40
PADDING = (SIZE - 28) // 2
TEST_COUNT = 320_000  # 32 transformations of each of MNIST's 10,000 test digits


class AffNISTDataModule(NamedDataModule):
    """Train on MNIST digits at random places of a black 40x40 canvas, test on affNIST's 320,000 transformed digits.

    Training images are not rotated, scaled or sheared, so that the test measures generalization. Places are drawn again
    in every epoch; each validation digit, held out of MNIST's training set, always has the same place. The paper stops
    training at 99.23 % on MNIST's test digits moved in the same way, and then measures affNIST once (79 %).

    Digits are found wherever `MNISTDataModule` finds them. affNIST's test images come from ``test.mat`` or
    ``test.mat.zip`` of its folder ``transformed``, in ``root/affnist``; they are read once and kept in
    ``prepared/affnist/test`` (512 MB). `ImageDataModule` describes the arguments that are not listed.

    Args:
        test_on: ``affnist``, or ``mnist`` for MNIST's test digits on the canvas, each always at the same place.

    Raises:
        InputError: a value is out of range, or files are missing, damaged or of another set.
    """

    name = "affnist"
    stored_shape = (1, SIZE, SIZE)
    class_names = tuple("0123456789")
    usual_augmentation = staticmethod(partial(Shift, pixels=PADDING))

    def __init__(
        self,
        root: str | None = None,
        test_on: TestSet = "affnist",
        batch_size: int = 128,
        val_size: float | int = 0.1,
        seed: int | None = None,
        augmentation: Callable[[], Augmentation] | None = None,
        normalization: Normalization | None = None,
        download: bool = True,
        images: str | None = None,
        fake: bool = False,
        background: str = "white",
        invert: bool = False,
        max_pixels: int = MOST_PIXELS,
        skip_damaged: bool = False,
        balanced: bool = False,
        fit: Fit = "squeeze",
    ) -> None:
        super().__init__(
            root,
            batch_size,
            val_size,
            seed,
            augmentation,
            normalization,
            download,
            images,
            fake,
            background,
            invert,
            max_pixels,
            skip_damaged,
            balanced,
            fit,
        )
        require(test_on in get_args(TestSet), f"test_on={test_on!r}: expected one of {', '.join(get_args(TestSet))}")
        self.test_on = test_on
        self.digits = MNISTDataModule(root, download=download)

    @override
    def use_split(self, train: Tensor, val: Tensor) -> None:
        """Give the validation digits their places, too."""
        super().use_split(train, val)
        if len(val):
            digits = self.store("train")
            self.stores["val"] = MemoryStore(place_at_random(digits.take(val)), digits.labels[val])

    @override
    def val_dataloader(self) -> ExactLoader | list[ExactLoader]:
        """Return the loader of the validation digits; positions are those among the validation digits."""
        return self.loader("val") if len(self._val) else []

    @override
    def read_original(self, split: Split, download: bool) -> tuple[ArrayLike, ArrayLike]:
        """Read affNIST's test images; MNIST's digits are read elsewhere."""
        folder = self.root / self.name
        if download:
            from torchvision.datasets.utils import download_url

            download_url(URL, str(folder))
        path = next((path for path in (folder / "test.mat.zip", folder / "test.mat") if kind_of(path) == "file"), None)
        if path is None:
            raise InputError(
                f"{folder / 'test.mat'}: no such file, nor test.mat.zip; it comes from {URL}, and --data.test_on mnist "
                "does without it"
            )
        images, labels = read_affnist(path)
        read = as_images(images, labels)
        self.require_usable(split, read.images, read.labels, self.stored_shape)
        prepared.save(self._prepared(split), read)
        return images, labels

    def _find(self, split: Split, download: bool) -> Images:
        if split == "test" and self.test_on == "affnist":
            return super()._find(split, download)
        found = prepared.load(self._prepared(split))
        if found is None:
            digits, labels = self.digits._find(split, download)
            canvas = F.pad(digits, (PADDING,) * 4)
            found = Images(canvas if split == "train" else place_at_random(canvas), labels)
        return found

    def _prepared(self, split: Split) -> Path:
        usual = super()._prepared(split)
        return usual if split == "train" or self.test_on == "affnist" else usual.with_name("test_mnist")


def place_at_random(canvas: Tensor) -> Tensor:
    """Move digits from the middle of ``(N, 1, 40, 40)`` to random places, the same in every call."""
    row, column = torch.rand(2, len(canvas), generator=torch.Generator().manual_seed(0))
    return shift(canvas, PADDING, row, column)


def read_affnist(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the MATLAB file of transformed test images, which may be in a zip archive.

    Its struct ``affNISTdata`` has the images as columns of ``image (1600, N)`` uint8, row after row of the picture, and
    their digits as ``label_int (1, N)``.

    Args:
        path: ``test.mat``, or a zip archive with it.

    Returns:
        Images ``(N, 40, 40)`` uint8 and labels ``(N)``.

    Raises:
        InputError: the file is damaged, has no such struct, or holds other images.
    """
    wanted = "affNISTdata", ("image", "label_int")
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                member = next(name for name in archive.namelist() if name.endswith(".mat"))
                with archive.open(member) as file:
                    columns, labels = matlab_struct(file, *wanted)
        else:
            with open_regular(path) as file:
                columns, labels = matlab_struct(file, *wanted)
        labels = labels.ravel().astype(np.int64)
    except Exception as error:  # a broken file gives OSError, ValueError, BadZipFile, zlib.error, KeyError, ...
        raise InputError(
            f"{path}: cannot be read as affNIST's MATLAB file; remove it and fetch it again from {URL} "
            f"({type(error).__name__}: {error})"
        ) from error
    if columns.shape != (SIZE**2, TEST_COUNT) or columns.dtype != np.uint8 or len(labels) != TEST_COUNT:
        raise InputError(
            f"{path}: image {columns.shape} {columns.dtype} and {len(labels)} labels, expected "
            f"{(SIZE**2, TEST_COUNT)} uint8: test.mat of the folder `transformed`, not of `just_centered`; it comes "
            f"from {URL}"
        )
    return columns.T.reshape(-1, SIZE, SIZE).copy(), labels  # writable, as torch wants it
