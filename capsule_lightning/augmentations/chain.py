"""A chain of augmentations, and two that are useful in a chain: scaling and mirroring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.geometry import mirror, mirror_points
from capsule_lightning.errors import require


class Chain(Augmentation):
    """Several augmentations one after the other, each with random numbers of its own.

    Args:
        steps: the augmentations, in order. One that mixes images comes last.

    Raises:
        InputError: one that mixes images is not the last.
    """

    def __init__(self, steps: Sequence[Callable[[], Augmentation]]) -> None:
        self.steps = [step() for step in steps]
        self.num_draws = sum(step.num_draws for step in self.steps)
        mixing = [type(step).__name__ for step in self.steps[:-1] if step.mixes]
        require(not mixing, f"Chain: steps: {', '.join(mixing)} mixes images that are changed before: put it last")
        self.mixes = bool(self.steps) and self.steps[-1].mixes

    @override
    def out_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        for step in self.steps:
            shape = step.out_shape(shape)
        return shape

    @override
    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change images step by step; the draws are those of the first step, then those of the second, and so on."""
        for step, share in zip(self.steps, self._shares(draws), strict=True):
            images = step.train(images, share)
        return images

    @property
    @override
    def moves_masks(self) -> bool:
        return all(step.moves_masks for step in self.steps)

    @override
    def move(self, images: Tensor, draws: Tensor, nearest: bool = False) -> Tensor:
        for step, share in zip(self.steps, self._shares(draws), strict=True):
            images = step.move(images, share, nearest)
        return images

    @property
    @override
    def moves_points(self) -> bool:
        return all(step.moves_points for step in self.steps)

    @override
    def move_points(self, points: Tensor, draws: Tensor, size: tuple[int, int]) -> Tensor:
        for step, share in zip(self.steps, self._shares(draws), strict=True):
            points = step.move_points(points, share, size)
        return points

    def _shares(self, draws: Tensor) -> tuple[Tensor, ...]:
        """Return the draws ``(B, K)`` of each step."""
        return torch.split(draws, [step.num_draws for step in self.steps], dim=1)

    @override
    def mix(self, first: Tensor, second: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        last = self.steps[-1]
        return last.mix(first, second, draws[:, self.num_draws - last.num_draws :])

    @override
    def evaluate(self, images: Tensor) -> Tensor:
        for step in self.steps:
            images = step.evaluate(images)
        return images


class Resize(Augmentation):
    """Scaling to another size, bilinear and antialiased, in training and evaluation alike.

    Args:
        size: rows and columns of the scaled images.
    """

    def __init__(self, size: int) -> None:
        require(size >= 1, f"Resize: size={size}: expected at least 1")
        self.size = size

    @override
    def out_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return shape[0], self.size, self.size

    @override
    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        return self.evaluate(images)

    @override
    def evaluate(self, images: Tensor) -> Tensor:
        return F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)


class Mirror(Augmentation):
    """Mirroring left and right, half of the time."""

    num_draws = 1

    @override
    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        return self.move(images, draws)

    @override
    def move(self, images: Tensor, draws: Tensor, nearest: bool = False) -> Tensor:
        return mirror(images, draws[:, 0])

    @override
    def move_points(self, points: Tensor, draws: Tensor, size: tuple[int, int]) -> Tensor:
        return mirror_points(points, draws[:, 0], size[1])
