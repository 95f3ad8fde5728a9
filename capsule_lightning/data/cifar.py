"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels in color.

Krizhevsky, Learning multiple layers of features from tiny images, 2009.
"""

from __future__ import annotations

from typing_extensions import override

from capsule_lightning.augmentations.geometry import PaddedCrop
from capsule_lightning.augmentations.patch import RandomPatch
from capsule_lightning.data.module import Split
from capsule_lightning.data.named import ArrayLike, NamedDataModule


class CIFAR10DataModule(NamedDataModule):
    """CIFAR-10: ten classes, 24x24 patches as in Sabour et al. 2017, section 7, standardized by image as in their code.

    Use the augmentation `PaddedCrop` for the usual 32x32 images. `ImageDataModule` describes the arguments.
    """

    name = "cifar10"
    stored_shape = (3, 32, 32)
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    statistics = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    usual_augmentation = RandomPatch
    usual_normalization = "per_image"

    @override
    def read_original(self, split: Split, download: bool) -> tuple[ArrayLike, ArrayLike]:
        from torchvision.datasets import CIFAR10

        original = CIFAR10(str(self.root), train=split == "train", download=download)
        return original.data, original.targets


_CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)


class CIFAR100DataModule(NamedDataModule):
    """CIFAR-100: a hundred classes, padded crop and mirror, normalized by channel; arguments as `ImageDataModule`."""

    name = "cifar100"
    stored_shape = (3, 32, 32)
    class_names = tuple(_CIFAR100.split())
    statistics = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    usual_augmentation = PaddedCrop
    usual_normalization = "channel"

    @override
    def read_original(self, split: Split, download: bool) -> tuple[ArrayLike, ArrayLike]:
        from torchvision.datasets import CIFAR100

        original = CIFAR100(str(self.root), train=split == "train", download=download)
        return original.data, original.targets
