"""Votes: what each child capsule predicts for each parent capsule."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def vote(poses: Tensor, weight: Tensor) -> Tensor:
    """Votes of vector capsules, ``u_hat[j|i] = W[i, j] u[i]``.

    Args:
        poses: ``(..., I, D)``, poses of the children.
        weight: ``(I, J, E, D)``, one matrix for each pair of child and parent.

    Returns:
        ``(..., I, J, E)``, in the precision that autocast asks for.

    Source: Sabour et al. 2017, Eq. 2, left half.
    """
    return torch.einsum("...id,ijed->...ije", poses, weight)


def vote_weight(num_in: int, num_out: int, dim_out: int, dim_in: int, std: float = 0.1) -> nn.Parameter:
    """A weight for `vote`, truncated normal at two standard deviations as in the authors' released code.

    Returns:
        Parameter ``(num_in, num_out, dim_out, dim_in)``.
    """
    weight = torch.empty(num_in, num_out, dim_out, dim_in)
    return nn.Parameter(nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std))
