"""Margin loss on the lengths of the class capsules.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), Eq. 4.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.losses.base import ClassificationLoss, multi_hot

Mode = Literal["paper", "official"]


@full_precision
def margin_loss(
    lengths: Tensor,
    targets: Tensor,
    m_plus: float = 0.9,
    m_minus: float = 0.1,
    down_weight: float = 0.5,
    mode: Mode = "paper",
) -> Tensor:
    """``L_k = T_k max(0, m+ - |v_k|)^2 + lambda (1 - T_k) max(0, |v_k| - m-)^2``, summed over classes.

    Args:
        lengths: ``(B, J)``, lengths of the class capsules in [0, 1].
        targets: class indices ``(B)``, or multi-hot ``(B, J)`` where several classes are present.
        m_plus: length above which a present class costs nothing.
        m_minus: length below which an absent class costs nothing.
        down_weight: lambda, of the absent classes.
        mode: ``paper`` sums over classes; ``official`` is half the mean over classes, what the released code computes.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        InputError: targets that fit neither form; an unknown mode.

    Example:
        >>> import torch
        >>> margin_loss(torch.zeros(1, 10), torch.tensor([3]))
        tensor(0.8100)
    """
    if mode not in get_args(Mode):
        raise InputError(f"mode={mode!r}: expected one of {', '.join(get_args(Mode))}")
    present = multi_hot(targets, lengths)
    losses = present * F.relu(m_plus - lengths).square()
    losses = losses + down_weight * (1 - present) * F.relu(lengths - m_minus).square()  # (B, J)
    return losses.sum(dim=-1).mean() if mode == "paper" else losses.mean() / 2


class MarginLoss(ClassificationLoss):
    """Margin loss of the activations; see `margin_loss` for the arguments.

    Raises:
        InputError: margins out of order, or a negative ``down_weight``.
    """

    def __init__(
        self, *, m_plus: float = 0.9, m_minus: float = 0.1, down_weight: float = 0.5, mode: Mode = "paper"
    ) -> None:
        super().__init__()
        if not 0 <= m_minus < m_plus <= 1:
            raise InputError(f"MarginLoss: m_minus={m_minus}, m_plus={m_plus}: expected 0 <= m_minus < m_plus <= 1")
        if not down_weight >= 0:
            raise InputError(f"MarginLoss: down_weight={down_weight}: expected 0 or more")
        self.m_plus, self.m_minus, self.down_weight = m_plus, m_minus, down_weight
        self.mode: Mode = mode

    def forward(self, capsules: Capsules, targets: Tensor) -> Tensor:
        """See `ClassificationLoss.forward`."""
        return margin_loss(capsules.activations, targets, self.m_plus, self.m_minus, self.down_weight, self.mode)
