"""Several augmentations one after the other, and two that are of use in a chain: scaling and mirroring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.geometry import mirror
from capsule_lightning.errors import InputError


class Chain(Augmentation):
    """Augmentations one after the other, each with random numbers of its own.

    Args:
        steps: the augmentations, in their order.
    """

    def __init__(self, steps: Sequence[Callable[[], Augmentation]]) -> None:
        self.steps = [step() for step in steps]
        self.num_draws = sum(step.num_draws for step in self.steps)

    def out_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """See `Augmentation.out_shape`."""
        for step in self.steps:
            shape = step.out_shape(shape)
        return shape

    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        """See `Augmentation.train`; the draws are those of the first step, then of the second, and so on."""
        shares = torch.split(draws, [step.num_draws for step in self.steps], dim=1)
        for step, share in zip(self.steps, shares, strict=True):
            images = step.train(images, share)
        return images

    def evaluate(self, images: Tensor) -> Tensor:
        """See `Augmentation.evaluate`."""
        for step in self.steps:
            images = step.evaluate(images)
        return images


class Resize(Augmentation):
    """Images scaled to another size, bilinear and antialiased, in training and evaluation alike.

    Args:
        size: rows and columns that come out.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise InputError(f"Resize: size={size}: expected at least 1")
        self.size = size

    def out_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """See `Augmentation.out_shape`."""
        return shape[0], self.size, self.size

    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        """See `Augmentation.train`."""
        return self.evaluate(images)

    def evaluate(self, images: Tensor) -> Tensor:
        """See `Augmentation.evaluate`."""
        return F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)


class Mirror(Augmentation):
    """Images mirrored left and right, half of the time."""

    num_draws = 1

    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        """See `Augmentation.train`."""
        return mirror(images, draws[:, 0])
