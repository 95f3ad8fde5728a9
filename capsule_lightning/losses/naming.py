"""Which classes are named of what may have several: those that are present enough, or a fixed number of the longest."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capsule_lightning.capsules import Capsules
from capsule_lightning.losses.base import ClassificationLoss

Naming = Callable[[Capsules], tuple[Tensor, Tensor]]
"""Class capsules to the classes that are named, ``(B, L)`` int64, -1 in places without one; and how sure a network is
that each class is there, ``(B, J)`` in [0, 1]."""


def named_from(presence: Tensor, threshold: float) -> Tensor:
    """Return the classes whose presence reaches a threshold.

    Args:
        presence: ``(B, J)`` in [0, 1].
        threshold: presence from which on a class is named.

    Returns:
        ``(B, J)`` int64, the classes of each row in ascending order, and -1 in the places that are left.

    Example:
        >>> named_from(torch.tensor([[0.2, 0.5, 0.9], [0.1, 0.2, 0.3]]), 0.5).tolist()
        [[1, 2, -1], [-1, -1, -1]]
    """
    named = presence >= threshold
    places = (~named).long().argsort(dim=-1, stable=True)
    return torch.where(named.gather(-1, places), places, -1)


class PresentClasses:
    """Names every class that is present enough, none included.

    Args:
        loss: that the network was trained with, and that says how sure it is, see `ClassificationLoss.presence`.
        threshold: see `named_from`.
    """

    def __init__(self, loss: ClassificationLoss, threshold: float) -> None:
        self.loss, self.threshold = loss, threshold

    def __call__(self, capsules: Capsules) -> tuple[Tensor, Tensor]:
        """Return classes and presence, see `Naming`."""
        presence = self.loss.presence(capsules)
        return named_from(presence, self.threshold), presence


class LongestCapsules:
    """Names a fixed number of classes, those of the longest capsules, the longest first.

    Args:
        count: how many, L.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, capsules: Capsules) -> tuple[Tensor, Tensor]:
        """Return classes and lengths, see `Naming`."""
        return capsules.activations.topk(self.count).indices, capsules.activations
