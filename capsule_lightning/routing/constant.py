"""Constant couplings, learnt and the same for every example. A control: routing without looking at the capsules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.votes import vote_weight
from capsule_lightning.routing.base import Routing


def constant_routing(poses: Tensor, weight: Tensor, couplings: Tensor) -> Tensor:
    """Parents are squashed sums of the votes, ``v[j] = squash(sum_i c[i, j] W[i, j] u[i])``, as matrix products.

    Couplings that no example changes are a part of the weights, so that no vote is ever formed.

    Args:
        poses: ``(..., I, D)``, u.
        weight: ``(K, J, E, D)``; child i uses matrices i modulo K.
        couplings: ``(I, J)``.

    Returns:
        ``(..., J, E)`` of length in [0, 1], float32 or wider; the sums are in the precision that autocast asks for.

    Source: Sabour et al. 2017 (arXiv 1710.09829), Eq. 1 and 2, with couplings that are given.
    """
    if len(weight) == len(couplings):
        total = torch.einsum("...id,ijed->...je", poses, couplings[..., None, None] * weight)
    else:
        poses, couplings = (x.reshape(*x.shape[:-2], -1, len(weight), x.shape[-1]) for x in (poses, couplings))
        mixed = torch.einsum("...nkd,nkj->...kjd", poses, couplings)
        total = torch.einsum("...kjd,kjed->...je", mixed, weight)
    return squash(total)


@full_precision
def couplings_of_all(logits: Tensor, poses: Tensor) -> Tensor:
    """``(I, J)`` logits to couplings ``(..., I, J)``, the same for every example of ``poses (..., I, D)``."""
    return coupling_coefficients(logits).expand(*poses.shape[:-1], -1)


class ConstantRouting(Routing):
    """Couplings are the softmax over the parents of a learnt parameter, which begins uniform.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`; each child has couplings of its own in any case.

    Example:
        >>> routing = ConstantRouting(1152, 8, 10, 16)
        >>> routing(Capsules.from_vectors(torch.rand(2, 1152, 8))).poses.shape
        torch.Size([2, 10, 16])
    """

    def __init__(
        self, num_in: int, dim_in: int, num_out: int, dim_out: int, *, vote_weights: int | None = None
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        self.weight = vote_weight(self.vote_weights, num_out, dim_out, dim_in)
        self.logits = nn.Parameter(torch.zeros(num_in, num_out))

    def forward(self, capsules: Capsules) -> Capsules:
        """See `Routing.forward`."""
        return Capsules.from_vectors(constant_routing(capsules.poses, self.weight, coupling_coefficients(self.logits)))

    def couplings(self, capsules: Capsules) -> Tensor:
        """The same for every example; they sum to 1 over the parents."""
        return couplings_of_all(self.logits, capsules.poses)
