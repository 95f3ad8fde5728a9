"""Margin loss of the lengths of the class capsules.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), Eq. 4.
"""

from __future__ import annotations

from typing import Literal

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
) -> Tensor:
    """Return ``L_k = T_k max(0, m+ - |v_k|)^2 + lambda (1 - T_k) max(0, |v_k| - m-)^2``, summed over classes.

    Args:
        lengths: ``(B, J)``, lengths of the class capsules in [0, 1].
        targets: class indices ``(B)``, or multi-hot ``(B, J)`` if several classes are present.
        m_plus: length above which a present class costs nothing.
        m_minus: length below which an absent class costs nothing.
        down_weight: lambda, the weight of the absent classes.
        mode: ``paper`` sums over classes; ``official`` takes half the mean over classes, as the released code does.
        class_weights: ``(J)``, see `weighted`.

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
    losses = present * F.relu(m_plus - lengths).square()
    losses = losses + down_weight * (1 - present) * F.relu(lengths - m_minus).square()  # (B, J)
    losses = weighted(losses, targets, class_weights)
    return losses.sum(dim=-1).mean() if mode == "paper" else losses.mean() / 2


class MarginLoss(ClassificationLoss):
    """Margin loss of the activations, see `margin_loss`.

    Args:
        m_plus: length above which a present class costs nothing.
        m_minus: length below which an absent class costs nothing.
        down_weight: lambda, the weight of the absent classes.
        mode: ``paper`` sums over classes; ``official`` takes half the mean over classes, as the released code does.
        class_weights: a number above 0 for each class, ``balanced``, or null; see `ClassificationLoss.balance` and
            `weighted`. For one label an image.

    Raises:
        InputError: the margins are out of order, ``down_weight`` is negative, or weights are not above 0.
    """

    def __init__(
        self,
        *,
        m_plus: float = 0.9,
        m_minus: float = 0.1,
        down_weight: float = 0.5,
        mode: Variant = "paper",
        class_weights: list[float] | Literal["balanced"] | None = None,
    ) -> None:
        super().__init__()
        require(
            0 <= m_minus < m_plus <= 1,
            f"MarginLoss: m_minus={m_minus}, m_plus={m_plus}: expected 0 <= m_minus < m_plus <= 1",
        )
        require(down_weight >= 0, f"MarginLoss: down_weight={down_weight}: expected 0 or more")
        self.m_plus, self.m_minus, self.down_weight = m_plus, m_minus, down_weight
        self.mode: Variant = mode
        self.weigh(class_weights)

    @override
    def forward(self, capsules: Capsules, targets: Tensor) -> Tensor:
        lengths, constants = capsules.activations, (self.m_plus, self.m_minus, self.down_weight)
        return margin_loss(lengths, targets, *constants, self.mode, self.class_weights)
