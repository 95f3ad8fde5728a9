"""Random couplings, drawn once and never learnt. A control: what remains when routing decides nothing.

Paik, Kwak & Kim, Capsule Networks Need an Improved Routing Algorithm, ACML 2019 (arXiv 1907.13327), compare routing
algorithms with random assignment.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.votes import vote_weight
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.constant import constant_routing, shared_couplings


class RandomRouting(Routing):
    """Routing in which each child divides itself among the parents at random, all divisions being equally likely.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`; each child always has couplings of its own.
        seed: seed of the couplings, which are saved with the network and do not depend on the seed of the weights.

    Example:
        >>> routing = RandomRouting(1152, 8, 10, 16)
        >>> routing(Capsules.from_vectors(torch.rand(2, 1152, 8))).poses.shape
        torch.Size([2, 10, 16])
    """

    logits: Tensor

    gives_lengths = True

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        vote_weights: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        self.weight = vote_weight(self.vote_weights, num_out, dim_out, dim_in)
        # normalized exponential numbers are uniform among those that sum to 1; softmax normalizes them in any dtype
        shares = torch.empty(num_in, num_out).exponential_(generator=torch.Generator().manual_seed(seed))
        self.register_buffer("logits", shares.log())

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        return Capsules.from_vectors(constant_routing(capsules.poses, self.weight, coupling_coefficients(self.logits)))

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return couplings that are the same for every example and sum to 1 over the parents."""
        return shared_couplings(self.logits, capsules.poses)
