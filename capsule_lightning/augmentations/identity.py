"""The augmentation that changes nothing."""

from __future__ import annotations

from torch import Tensor

from capsule_lightning.augmentations.base import Augmentation


class NoAugmentation(Augmentation):
    """Images as they are."""

    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        """See `Augmentation.train`."""
        return images
