"""Random couplings, drawn once and never learnt. A control: what is left when routing decides nothing.

Paik, Kwak & Kim, Capsule Networks Need an Improved Routing Algorithm, ACML 2019 (arXiv 1907.13327), compare routing
algorithms with random assignment.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capsule_lightning.capsules import Capsules
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.votes import vote_weight
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.constant import constant_routing, couplings_of_all


class RandomRouting(Routing):
    """Each child divides itself among the parents at random, all divisions being equally likely.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`; each child has couplings of its own in any case.
        seed: of the couplings. They are saved with the network, and are the same whatever the seed of the weights.

    Example:
        >>> routing = RandomRouting(1152, 8, 10, 16)
        >>> routing(Capsules.from_vectors(torch.rand(2, 1152, 8))).poses.shape
        torch.Size([2, 10, 16])
    """

    logits: Tensor

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
        # normalized exponential numbers are uniform among those that sum to 1; their softmax is exact in any dtype
        shares = torch.empty(num_in, num_out).exponential_(generator=torch.Generator().manual_seed(seed))
        self.register_buffer("logits", shares.log())

    def forward(self, capsules: Capsules) -> Capsules:
        """See `Routing.forward`."""
        return Capsules.from_vectors(constant_routing(capsules.poses, self.weight, coupling_coefficients(self.logits)))

    def couplings(self, capsules: Capsules) -> Tensor:
        """The same for every example; they sum to 1 over the parents."""
        return couplings_of_all(self.logits, capsules.poses)
