"""The 1,797 real handwritten digits that come with scikit-learn: a data set that needs no download.

Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from functools import partial

import torch
from typing_extensions import override

from capsule_lightning.augmentations.geometry import Shift
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.module import Split
from capsule_lightning.data.prepared import Images
from capsule_lightning.data.stratified import split_off

TEST_SIZE = 360


class DigitsDataModule(ImageDataModule):
    """Gray images of 8x8 pixels in 10 classes; arguments as `ImageDataModule`.

    The collection has no test set of its own: the same 360 images, 36 of each class give or take one, are the test set
    whatever the seed. The remaining 1,437 are the training set.
    """

    name = "digits"
    stored_shape = (1, 8, 8)
    class_names = tuple("0123456789")
    usual_augmentation = staticmethod(partial(Shift, pixels=1))

    @override
    def load(self, split: Split) -> Images:
        from sklearn.datasets import load_digits

        digits = load_digits()
        labels = torch.from_numpy(digits.target).long()
        images = torch.from_numpy(digits.images / 16 * 255).round().to(torch.uint8).unsqueeze(1)
        train, test = split_off(labels, TEST_SIZE, seed=0)
        chosen = train if split == "train" else test
        return Images(images[chosen], labels[chosen])
