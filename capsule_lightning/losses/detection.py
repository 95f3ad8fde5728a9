"""Losses of heat maps and of what is regressed at the centers of objects.

Zhou, Wang & Kraehenbuehl, Objects as Points, 2019 (arXiv 1904.07850), Eq. 1 to 4; the focal loss is that of Law & Deng,
CornerNet, ECCV 2018 (arXiv 1808.01244), Eq. 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.errors import require
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.losses.counts import share_of_count

_EDGE = 1e-4  # a length of exactly 0 or 1 has no logarithm


@full_precision
def focal_loss(heat: Tensor, target: Tensor, counts: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Return ``-1/N sum of (1 - p)^a log p`` at centers and ``(1 - y)^b p^a log(1 - p)`` elsewhere.

    Args:
        heat: ``(B, J, rows, columns)`` in [0, 1], p, clamped to [1e-4, 1 - 1e-4].
        target: the same shape, y, exactly 1 at centers.
        counts: ``(B, rows, columns)``, 0 where nothing counts.
        alpha: how little easy cells count.
        beta: how little cells near a center count.

    Returns:
        Scalar; N is the number of centers in the batch, of all processes together, 1 if there is none.
    """
    p = heat.clamp(_EDGE, 1 - _EDGE)
    center = (target == 1).to(p)
    losses = center * (1 - p) ** alpha * p.log() + (1 - center) * (1 - target) ** beta * p**alpha * (-p).log1p()
    return -(losses * counts.unsqueeze(1)).sum() / share_of_count(center.sum())


@full_precision
def center_margin_loss(
    heat: Tensor, target: Tensor, counts: Tensor, m_plus: float, m_minus: float, down_weight: float, beta: float = 4.0
) -> Tensor:
    """Return the margin loss of lengths: ``1/N sum of max(0, m+ - p)^2`` at centers.

    Elsewhere it is ``lambda (1 - y)^b max(0, p - m-)^2``. Its gradient does not vanish for short capsules.

    Args:
        heat, target, counts, beta: see `focal_loss`.
        m_plus: length above which a center costs nothing.
        m_minus: length below which any other cell costs nothing.
        down_weight: lambda.

    Returns:
        Scalar; N is the number of centers in the batch, of all processes together, 1 if there is none.

    Source: Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017, Eq. 4; near centers with the weights
    of `focal_loss`.
    """
    center = (target == 1).to(heat)
    losses = center * F.relu(m_plus - heat).square()
    losses = losses + down_weight * (1 - center) * (1 - target) ** beta * F.relu(heat - m_minus).square()
    return (losses * counts.unsqueeze(1)).sum() / share_of_count(center.sum())


@full_precision
def center_l1(found: Tensor, target: Tensor, present: Tensor) -> Tensor:
    """Return the mean absolute error of what is regressed at the centers of objects.

    Args:
        found, target: ``(B, N, C)``.
        present: ``(B, N)`` bool, which objects there are.

    Returns:
        Scalar, divided by the number of values of these objects; 0 if there is none.
    """
    here = present.unsqueeze(-1)
    return ((found - target).abs() * here).sum() / (share_of_count(present.sum()) * found.shape[-1])


class HeatMapLoss(nn.Module, ABC):
    """A loss of heat maps, whose peaks are the centers of objects."""

    @abstractmethod
    def forward(self, heat: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        """Return a scalar from heat and target ``(B, J, rows, columns)`` and ``counts (B, rows, columns)``."""


class FocalLoss(HeatMapLoss):
    """Focal loss of heat maps, see `focal_loss`.

    Args:
        alpha: how little easy cells count, 2 in the paper.
        beta: how little cells near a center count, 4 in the paper.

    Raises:
        InputError: a negative value.
    """

    def __init__(self, alpha: float = 2.0, beta: float = 4.0) -> None:
        super().__init__()
        require(min(alpha, beta) >= 0, f"FocalLoss: alpha={alpha}, beta={beta}: expected 0 or more")
        self.alpha, self.beta = alpha, beta

    @override
    def forward(self, heat: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        return focal_loss(heat, target, counts, self.alpha, self.beta)


class CenterMarginLoss(HeatMapLoss):
    """Margin loss of the lengths of presence capsules, see `center_margin_loss`.

    Args:
        m_plus: length above which a center costs nothing.
        m_minus: length below which any other cell costs nothing.
        down_weight: weight of cells that are no centers.

    Raises:
        InputError: the margins are out of order, or ``down_weight`` is negative.
    """

    def __init__(self, m_plus: float = 0.9, m_minus: float = 0.1, down_weight: float = 0.5) -> None:
        super().__init__()
        require(
            0 <= m_minus < m_plus <= 1,
            f"CenterMarginLoss: m_minus={m_minus}, m_plus={m_plus}: expected 0 <= m_minus < m_plus <= 1",
        )
        require(down_weight >= 0, f"CenterMarginLoss: down_weight={down_weight}: expected 0 or more")
        self.m_plus, self.m_minus, self.down_weight = m_plus, m_minus, down_weight

    @override
    def forward(self, heat: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        return center_margin_loss(heat, target, counts, self.m_plus, self.m_minus, self.down_weight)
