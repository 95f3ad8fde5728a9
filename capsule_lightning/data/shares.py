"""By which labels an example of a training batch counts in the loss, and how much."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from capsule_lightning.errors import InputError, require


class Share(NamedTuple):
    """What examples count as in the loss; those that are made of two have two shares.

    Attributes:
        labels: ``(B)`` int64, or ``(B, L)`` if an image may have several.
        weights: ``(B)`` float32, at least 0, by which the loss of each example is multiplied.
    """

    labels: Tensor
    weights: Tensor


def shares_of_pairs(labels: Tensor, own: Tensor, weights: Tensor | None) -> tuple[Tensor, tuple[Share, Share]]:
    """Return what examples count as that are made of two.

    Args:
        labels: ``(B, 2)`` or ``(B, 2, L)`` int64, of the two.
        own: ``(B)`` in [0, 1], how much of each is the first.
        weights: ``(B, 2)``, those of the two examples; None for 1.

    Returns:
        The labels ``(B)`` or ``(B, L)`` of the greater share, and both shares. Each counts by its part of the example
        times its weight, ``s u_1`` and ``(1 - s) u_2``.
    """
    first, second = labels.unbind(dim=1)
    parts = torch.stack([own, 1 - own], dim=1)
    parts = parts if weights is None else parts * weights
    greater = (own >= 0.5).view(-1, *[1] * (first.ndim - 1))
    return torch.where(greater, first, second), (Share(first, parts[:, 0]), Share(second, parts[:, 1]))


def require_weights(weights: Tensor, title: str) -> Tensor:
    """Return weights of examples ``(N)``, checked.

    Args:
        weights: as they were given.
        title: what they are called, for messages.

    Raises:
        InputError: one of them is negative, infinite or not a number, or all are 0.
    """
    wrong = (~weights.isfinite() | (weights < 0)).nonzero()[:, 0].tolist()
    if wrong:
        raise InputError(
            f"{title}: {len(wrong):,} weights are not finite numbers of 0 or more, the first {weights[wrong[0]]:g} for "
            f"example {wrong[0] + 1}; mend them, or remove the weights"
        )
    require(bool((weights > 0).any()), f"{title}: all weights are 0; give some example a weight above 0")
    return weights


def of_mean_one(weights: Tensor, trained: Tensor) -> Tensor:
    """Divide weights by their mean over the examples to train on, so that losses keep their size.

    Args:
        weights: ``(N)``, at least 0.
        trained: ``(M)`` int64, the examples to train on.

    Returns:
        ``(N)`` float32.

    Raises:
        InputError: all examples to train on have the weight 0.
    """
    mean = weights[trained].double().mean()
    require(bool(mean > 0), "all examples to train on have the weight 0; give some of them one above 0")
    return (weights.double() / mean).float()
