"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images of 28x28 gray pixels in 10 classes.

LeCun, Cortes & Burges, The MNIST database of handwritten digits. Xiao, Rasul & Vollgraf, Fashion-MNIST, 2017 (arXiv
1708.07747).
"""

from __future__ import annotations

from typing_extensions import override

from capsule_lightning.augmentations.geometry import Shift
from capsule_lightning.data.module import Split
from capsule_lightning.data.named import ArrayLike, NamedDataModule


class MNISTDataModule(NamedDataModule):
    """Handwritten digits, shifted in training by up to 2 pixels as Sabour et al. do; arguments as `ImageDataModule`."""

    name = "mnist"
    stored_shape = (1, 28, 28)
    class_names = tuple("0123456789")
    statistics = ((0.1307,), (0.3081,))
    usual_augmentation = Shift

    @override
    def read_original(self, split: Split, download: bool) -> tuple[ArrayLike, ArrayLike]:
        from torchvision.datasets import MNIST

        original = MNIST(str(self.root), train=split == "train", download=download)
        return original.data, original.targets


class FashionMNISTDataModule(NamedDataModule):
    """Articles of clothing, shifted by up to 2 pixels in training; arguments as `ImageDataModule`."""

    name = "fashion_mnist"
    stored_shape = (1, 28, 28)
    class_names = (
        "t-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    statistics = ((0.2860,), (0.3530,))
    usual_augmentation = Shift

    @override
    def read_original(self, split: Split, download: bool) -> tuple[ArrayLike, ArrayLike]:
        from torchvision.datasets import FashionMNIST

        original = FashionMNIST(str(self.root), train=split == "train", download=download)
        return original.data, original.targets
