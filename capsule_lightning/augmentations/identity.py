"""The augmentation that changes nothing."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation


class NoAugmentation(Augmentation):
    """No change: images stay as they are."""

    @override
    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        return images

    @override
    def move(self, images: Tensor, draws: Tensor, nearest: bool = False) -> Tensor:
        return images

    @override
    def move_points(self, points: Tensor, draws: Tensor, size: tuple[int, int]) -> Tensor:
        return points
