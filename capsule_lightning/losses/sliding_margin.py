"""Margin loss whose boundary is learned, for sentences with any number of relations.

Zhang X., Li, Jia & Zhao, Multi-Labeled Relation Extraction with Attentive Capsule Network, AAAI 2019 (arXiv
1811.04354).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.losses.base import ClassificationLoss, multi_hot, weighted

_WITHIN = 1e-3, 1 - 1e-3  # where a boundary counts that has been learned to lie beyond


@full_precision
def sliding_margin_loss(
    lengths: Tensor,
    targets: Tensor,
    boundary: Tensor,
    margin: float = 0.4,
    down_weight: float = 0.5,
    weights: Tensor | None = None,
) -> Tensor:
    """Return ``Y max(0, B + g - |v|)^2 + lambda (1 - Y) max(0, |v| - (B - g))^2``, summed over classes.

    Args:
        lengths: ``(B, J)`` in [0, 1].
        targets: class indices ``(B)``, or multi-hot ``(B, J)``.
        boundary: B, a scalar.
        margin: g.
        down_weight: lambda, the weight of the absent classes.
        weights: ``(B)``, see `weighted`.

    Returns:
        Scalar, the mean over the batch.

    Example:
        >>> sliding_margin_loss(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), torch.tensor(0.5))
        tensor(0.2400)
    """
    present = multi_hot(targets, lengths)
    here = F.relu(boundary + margin - lengths).square()
    away = F.relu(lengths - (boundary - margin)).square()
    losses = present * here + down_weight * (1 - present) * away
    return weighted(losses, targets, None, weights).sum(dim=-1).mean()


class SlidingMarginLoss(ClassificationLoss):
    """Margin loss on both sides of a length that is learned with the network, see `sliding_margin_loss`.

    A class is there if its capsule is longer than the boundary; `presence` says so with 1/2 at the boundary.

    Args:
        boundary: where it starts, in (0, 1).
        margin: on each side of it, at least 0.
        down_weight: the weight of the absent classes.

    Raises:
        InputError: a value is out of range.
    """

    def __init__(self, *, boundary: float = 0.5, margin: float = 0.4, down_weight: float = 0.5) -> None:
        super().__init__()
        require(0 < boundary < 1, f"SlidingMarginLoss: boundary={boundary}: expected a number between 0 and 1")
        require(
            margin >= 0 and down_weight >= 0,
            f"SlidingMarginLoss: margin={margin}, down_weight={down_weight}: expected 0 or more",
        )
        self.margin, self.down_weight = margin, down_weight
        self.boundary = nn.Parameter(torch.tensor(float(boundary)))

    @override
    def forward(self, capsules: Capsules, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        return sliding_margin_loss(capsules.activations, targets, self.boundary, self.margin, self.down_weight, weights)

    @override
    def learned(self) -> dict[str, float]:
        return {"boundary": float(self.boundary.detach().clamp(*_WITHIN))}

    @override
    def presence(self, capsules: Capsules) -> Tensor:
        """Return lengths stretched so that the boundary is at 1/2 and both 0 and 1 stay."""
        lengths, boundary = capsules.activations, self.boundary.detach().clamp(*_WITHIN)
        below, above = lengths / (2 * boundary), 1 - (1 - lengths) / (2 * (1 - boundary))
        return torch.where(lengths < boundary, below, above)
