"""Loss of the places of joints."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.errors import InputError
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.losses.counts import share_of_count


@full_precision
def joint_loss(joints: Tensor, targets: Tensor, beta: float = 0.02) -> Tensor:
    """Return the smooth L1 distance, a mean over all coordinates that are labeled.

    ``d^2 / (2 beta)`` of a difference d below ``beta``, and ``|d| - beta / 2`` of a larger one (Girshick, Fast R-CNN,
    ICCV 2015, Eq. 3, whose beta is 1). Half the squared error is ``beta`` times that of a large ``beta``.

    Args:
        joints: ``(B, K, D)``.
        targets: ``(B, K, D)``; NaN for what is not labeled, which has no gradient.
        beta: above 0, in the units of the joints.

    Returns:
        Scalar; 0 if nothing is labeled.

    Raises:
        InputError: the shapes differ.

    Example:
        >>> joint_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, torch.nan]]]), beta=0.5)
        tensor(0.7500)
    """
    if joints.shape != targets.shape:
        raise InputError(f"joints of shape {tuple(joints.shape)}: expected {tuple(targets.shape)}")
    known = ~targets.isnan()
    each = F.smooth_l1_loss(joints, torch.where(known, targets, joints.detach()), beta=beta, reduction="sum")
    return each / share_of_count(known.sum())


@full_precision
def learned_sum(losses: Tensor, scores: Tensor) -> Tensor:
    """Return ``sum of e^-s L / 2 + s / 2``: losses weighted by what is learned of their noise.

    Args:
        losses: ``(N)``.
        scores: ``(N)``, s, the logarithm of the variance of each.

    Source: Kendall, Gal & Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018 (arXiv 1705.07115),
    section 3.2. The released code of DECA adds s where this adds half of it.

    Example:
        >>> learned_sum(torch.tensor([2.0, 4.0]), torch.zeros(2))
        tensor(3.)
    """
    return (0.5 * torch.exp(-scores) * losses + 0.5 * scores).sum()
