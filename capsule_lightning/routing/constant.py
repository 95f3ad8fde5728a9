"""Constant couplings, learnt and the same for every example. A control: routing that does not look at the capsules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.votes import vote_weight
from capsule_lightning.routing.base import Routing


def constant_routing(poses: Tensor, weight: Tensor, couplings: Tensor) -> Tensor:
    """Return parents that are squashed sums of the votes, ``v[j] = squash(sum_i c[i, j] W[i, j] u[i])``.

    Couplings that are the same for every example can be multiplied into the weights, so that the sums are matrix
    products and no vote is ever formed.

    Args:
        poses: ``(..., I, D)``, u.
        weight: ``(K, J, E, D)``, W; child i uses the matrices of row i modulo K.
        couplings: ``(I, J)``, c.

    Returns:
        ``(..., J, E)`` of length in [0, 1], float32 or wider; the sums are in the precision that autocast asks for.

    Source: Sabour et al. 2017 (arXiv 1710.09829), Eq. 1 and 2, with given couplings.
    """
    if len(weight) == len(couplings):
        total = torch.einsum("...id,ijed->...je", poses, couplings[..., None, None] * weight)
    else:
        poses, couplings = (x.reshape(*x.shape[:-2], -1, len(weight), x.shape[-1]) for x in (poses, couplings))
        mixed = torch.einsum("...nkd,nkj->...kjd", poses, couplings)
        total = torch.einsum("...kjd,kjed->...je", mixed, weight)
    return squash(total)


@full_precision
def shared_couplings(logits: Tensor, poses: Tensor) -> Tensor:
    """Return the couplings ``(..., I, J)`` of logits ``(I, J)``, the same for all examples of ``poses (..., I, D)``."""
    return coupling_coefficients(logits).expand(*poses.shape[:-1], -1)


class ConstantRouting(Routing):
    """Routing whose couplings are the softmax over the parents of a learnt parameter; they start uniform.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`; each child always has couplings of its own.

    Example:
        >>> routing = ConstantRouting(1152, 8, 10, 16)
        >>> routing(Capsules.from_vectors(torch.rand(2, 1152, 8))).poses.shape
        torch.Size([2, 10, 16])
    """

    gives_lengths = True

    def __init__(
        self, num_in: int, dim_in: int, num_out: int, dim_out: int, *, vote_weights: int | None = None
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        self.weight = vote_weight(self.vote_weights, num_out, dim_out, dim_in)
        self.logits = nn.Parameter(torch.zeros(num_in, num_out))

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        return Capsules.from_vectors(constant_routing(capsules.poses, self.weight, coupling_coefficients(self.logits)))

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return couplings that are the same for every example and sum to 1 over the parents."""
        return shared_couplings(self.logits, capsules.poses)
