"""Votes: what each child capsule predicts for each parent capsule."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def vote(poses: Tensor, weight: Tensor) -> Tensor:
    """Return the votes of vector capsules, ``u_hat[j|i] = W[i, j] u[i]``.

    Args:
        poses: ``(..., I, D)``, poses of the children.
        weight: ``(K, J, E, D)``; child i uses the matrices of row i modulo K, and K divides I. With K = I, as in the
            paper, each pair of child and parent has a matrix of its own.

    Returns:
        ``(..., I, J, E)``, in the precision that autocast asks for.

    Source: Sabour et al. 2017, Eq. 2, left half.
    """
    if weight.shape[0] == poses.shape[-2]:
        return torch.einsum("...id,ijed->...ije", poses, weight)
    count = weight.shape[0]
    poses = poses.reshape(*poses.shape[:-2], poses.shape[-2] // count, count, poses.shape[-1])
    return torch.einsum("...nkd,kjed->...nkje", poses, weight).flatten(-4, -3)


def matrix_vote(poses: Tensor, weight: Tensor) -> Tensor:
    """Return the votes of matrix capsules, ``V[j|i] = M[i] W[i, j]``, products of n x n matrices.

    Args:
        poses: ``(..., I, D)``, the rows of M one after the other, ``D = n * n``.
        weight: ``(K, J, n, n)``; child i uses the matrices of row i modulo K.

    Returns:
        ``(..., I, J, D)``, in the precision that autocast asks for. In memory the parents come first, the order that
        the matrix products of routing need.

    Source: Hinton, Sabour & Frosst, Matrix Capsules with EM Routing, ICLR 2018, section 2.
    """
    count, _, n, _ = weight.shape
    matrices = poses.reshape(*poses.shape[:-2], poses.shape[-2] // count, count, n, n)
    votes = torch.einsum("...ckxy,kjyz->...jckxz", matrices, weight)
    return votes.flatten(-2).flatten(-3, -2).transpose(-3, -2)


def sum_of_votes(poses: Tensor, weight: Tensor) -> Tensor:
    """Return ``sum_i v[i, j]`` of `vote` or `matrix_vote` as one matrix product that never forms the votes.

    Args:
        poses: ``(..., I, D)``.
        weight: ``(K, J, E, D)`` as for `vote`, or ``(K, J, n, n)`` as for `matrix_vote`, ``D = n * n``.

    Returns:
        ``(..., J, E)``, in the precision that autocast asks for.
    """
    count, _, _, columns = weight.shape
    if count != poses.shape[-2]:
        poses = poses.reshape(*poses.shape[:-2], -1, count, poses.shape[-1]).sum(dim=-3)
    if columns == poses.shape[-1]:
        return torch.einsum("...kd,kjed->...je", poses, weight)
    matrices = poses.reshape(*poses.shape[:-1], columns, columns)
    return torch.einsum("...kxy,kjyz->...jxz", matrices, weight).flatten(-2)


def own_vote_weight(weight: Tensor, num_in: int) -> Tensor:
    """Repeat the matrices ``(K, J, E, D)`` that children share in `vote`: ``(I, J, E, D)``, one row for each child."""
    return weight if weight.shape[0] == num_in else weight.repeat(num_in // weight.shape[0], 1, 1, 1)


def vote_weight(num_matrices: int, num_out: int, dim_out: int, dim_in: int, std: float = 0.1) -> nn.Parameter:
    """Draw a weight for `vote`, normal and truncated at two standard deviations as in the authors' released code.

    Returns:
        Parameter ``(num_matrices, num_out, dim_out, dim_in)``.
    """
    weight = torch.empty(num_matrices, num_out, dim_out, dim_in)
    return nn.Parameter(nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std))
