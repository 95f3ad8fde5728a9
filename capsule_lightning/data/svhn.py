"""SVHN: 73,257 training and 26,032 test images of house-number digits, 32x32 pixels in color.

Netzer et al., Reading digits in natural images with unsupervised feature learning, 2011.
"""

from __future__ import annotations

from typing_extensions import override

from capsule_lightning.augmentations.geometry import Shift
from capsule_lightning.data.module import Split
from capsule_lightning.data.named import ArrayLike, NamedDataModule


class SVHNDataModule(NamedDataModule):
    """House numbers without the 531,131 extra images, as in Sabour et al. 2017, section 7.

    Digits are not mirrored; shifts of up to 2 pixels are our choice, since the paper names none. Arguments are those of
    `ImageDataModule`.
    """

    name = "svhn"
    stored_shape = (3, 32, 32)
    class_names = tuple("0123456789")
    statistics = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
    usual_augmentation = Shift
    usual_normalization = "channel"

    @override
    def read_original(self, split: Split, download: bool) -> tuple[ArrayLike, ArrayLike]:
        from torchvision.datasets import SVHN

        original = SVHN(str(self.root), split=split, download=download)
        return original.data.transpose(0, 2, 3, 1), original.labels
