"""Margin loss of the lengths of the class capsules.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), Eq. 4. The focal factor is that
of Lin, Goyal, Girshick, He & Dollar, Focal Loss for Dense Object Detection, ICCV 2017 (arXiv 1708.02002), Eq. 4.
"""

from __future__ import annotations

from math import isfinite
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.variant import Variant, require_variant
from capsule_lightning.losses.base import ClassificationLoss, multi_hot, weighted


@full_precision
def margin_loss(
    lengths: Tensor,
    targets: Tensor,
    m_plus: float = 0.9,
    m_minus: float = 0.1,
    down_weight: float = 0.5,
    mode: Variant = "paper",
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Return ``L_k = T_k max(0, m+ - |v_k|)^2 + lambda (1 - T_k) max(0, |v_k| - m-)^2``, summed over classes.

    With ``focal_gamma`` g above 0, each term is multiplied by ``(1 - p)^g``, and p is the length's say for what is true
    of the class: ``|v_k|`` if it is present, else ``1 - |v_k|``. So what is nearly right counts less:
    ``T_k (1 - |v_k|)^g max(0, m+ - |v_k|)^2 + lambda (1 - T_k) |v_k|^g max(0, |v_k| - m-)^2``.

    Args:
        lengths: ``(B, J)``, lengths of the class capsules in [0, 1].
        targets: class indices ``(B)``, or multi-hot ``(B, J)`` if several classes are present.
        m_plus: length above which a present class costs nothing.
        m_minus: length below which an absent class costs nothing.
        down_weight: lambda, the weight of the absent classes.
        mode: ``paper`` sums over classes; ``official`` takes half the mean over classes, as the released code does.
        class_weights: ``(J)``, see `weighted`.
        weights: ``(B)``, see `weighted`.
        focal_gamma: g, at least 0; 0 for the loss of the paper.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InputError: the targets have neither form, or are multi-hot and there are weights, or ``mode`` is unknown.

    Example:
        >>> import torch
        >>> margin_loss(torch.zeros(1, 10), torch.tensor([3]))
        tensor(0.8100)
    """
    require_variant(mode)
    present = multi_hot(targets, lengths)
    short, long = F.relu(m_plus - lengths), F.relu(lengths - m_minus)
    here, away = short.square(), long.square()
    if focal_gamma > 0:  # beyond its margin a length costs nothing, and a power of 0 would have no gradient there
        here = here * torch.where(short > 0, 1 - lengths, 1).pow(focal_gamma)
        away = away * torch.where(long > 0, lengths, 1).pow(focal_gamma)
    losses = present * here + down_weight * (1 - present) * away  # (B, J)
    losses = weighted(losses, targets, class_weights, weights)
    return losses.sum(dim=-1).mean() if mode == "paper" else losses.mean() / 2


class MarginLoss(ClassificationLoss):
    """Margin loss of the activations, see `margin_loss`.

    Smoothed labels are not for it: a length beyond its margin costs nothing, so nothing drives lengths to 0 or 1, and
    targets between 0 and 1 would only move the two margins, for which there are ``m_plus`` and ``m_minus``.

    Args:
        m_plus: length above which a present class costs nothing.
        m_minus: length below which an absent class costs nothing.
        down_weight: lambda, the weight of the absent classes.
        mode: ``paper`` sums over classes; ``official`` takes half the mean over classes, as the released code does.
        class_weights: a number above 0 for each class, ``balanced``, or null; see `ClassificationLoss.balance` and
            `weighted`. For one label an image.
        focal_gamma: how much less examples count that are nearly right, at least 0; 0 for not at all, and 2 in the
            focal loss of Lin et al. (2017), whose factor it is.

    Raises:
        InputError: the margins are out of order, ``down_weight`` or ``focal_gamma`` is negative, or weights are not
            above 0.
    """

    def __init__(
        self,
        *,
        m_plus: float = 0.9,
        m_minus: float = 0.1,
        down_weight: float = 0.5,
        mode: Variant = "paper",
        class_weights: list[float] | Literal["balanced"] | None = None,
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__()
        require(
            0 <= m_minus < m_plus <= 1,
            f"MarginLoss: m_minus={m_minus}, m_plus={m_plus}: expected 0 <= m_minus < m_plus <= 1",
        )
        require(down_weight >= 0, f"MarginLoss: down_weight={down_weight}: expected 0 or more")
        require(
            isfinite(focal_gamma) and focal_gamma >= 0,
            f"MarginLoss: focal_gamma={focal_gamma}: expected a finite number of 0 or more",
        )
        self.m_plus, self.m_minus, self.down_weight = m_plus, m_minus, down_weight
        self.focal_gamma = focal_gamma
        self.mode: Variant = mode
        self.weigh(class_weights)

    @override
    def forward(self, capsules: Capsules, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        lengths, constants = capsules.activations, (self.m_plus, self.m_minus, self.down_weight)
        return margin_loss(lengths, targets, *constants, self.mode, self.class_weights, weights, self.focal_gamma)
