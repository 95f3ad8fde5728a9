"""Uniform routing: every coupling equal. The control that every routing result needs beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from capsule_lightning.capsules import Capsules
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.votes import vote_weight
from capsule_lightning.routing.base import Routing


class UniformRouting(Routing):
    """Parents are the squashed mean of the votes, ``v[j] = squash(1/J sum_i W[i, j] u[i])``.

    The same function as one iteration of dynamic routing (Sabour et al. 2017, Procedure 1 with r = 1: MNIST test error
    0.29 % against 0.25 % with r = 3, their Table 1), as one matrix product that never forms the votes.

    Args:
        num_in, dim_in, num_out, dim_out: see `Routing`.
    """

    def __init__(self, num_in: int, dim_in: int, num_out: int, dim_out: int) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out)
        self.weight = vote_weight(num_in, num_out, dim_out, dim_in)

    def forward(self, capsules: Capsules) -> Capsules:
        """See `Routing.forward`."""
        total = torch.einsum("...id,ijed->...je", capsules.poses, self.weight)  # (..., J, E)
        return Capsules.from_vectors(squash(total / self.num_out))

    def couplings(self, capsules: Capsules) -> Tensor:
        """``1 / J`` everywhere."""
        poses = capsules.poses
        dtype = torch.promote_types(poses.dtype, torch.float32)
        return torch.full((*poses.shape[:-1], self.num_out), 1 / self.num_out, dtype=dtype, device=poses.device)
