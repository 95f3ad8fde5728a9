"""Dynamic routing with what Zhao et al. found to keep it stable where most children are noise, as words of a text are.

Zhao, Ye, Yang, Lei, Zhang & Zhao, Investigating Capsule Networks with Dynamic Routing for Text Classification, EMNLP
2018 (arXiv 1804.00538).
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.kernels.shared_votes import shared_dynamic_routing
from capsule_lightning.layers.couplings import require_passes
from capsule_lightning.layers.votes import vote, vote_weight
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.dynamic import dynamic_routing


class StabilizedRouting(Routing):
    """Dynamic routing in which a child may choose no parent, and counts by its activation.

    With both switches off and an ``offset`` of 1 this is `DynamicRouting`. Children that share their matrices are
    routed without a single vote in memory, see `capsule_lightning.kernels.shared_votes`.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`.
        iterations: passes of routing, 3 in the paper; 1 gives uniform couplings.
        leaky: divide by one more than the sum, ``c_ij = exp(b_ij) / (1 + sum_k exp(b_ik))``, so that a child need not
            choose one of the parents.
        amendment: multiply the couplings of each child by its activation.
        offset: of the squash ``|s| / (offset + |s|^2) s``, 0.5 in the paper.

    Raises:
        InputError: ``iterations`` is below 1, or ``offset`` is not above 0.

    Source: Zhao et al. 2018, section 2.2 (arXiv 1804.00538). The released code has neither of the two switches on.

    Example:
        >>> routing = StabilizedRouting(1552, 16, 9, 16, vote_weights=1)
        >>> routing(Capsules.from_vectors(torch.rand(2, 1552, 16))).poses.shape
        torch.Size([2, 9, 16])
    """

    routes_votes = True
    any_number = True
    gives_lengths = True

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        vote_weights: int | None = None,
        iterations: int = 3,
        leaky: bool = True,
        amendment: bool = True,
        offset: float = 0.5,
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        require_passes(iterations)
        require(offset > 0, f"StabilizedRouting: offset={offset}: expected a number above 0, such as 0.5")
        self.iterations, self.leaky, self.amendment, self.offset = iterations, leaky, amendment, offset
        self.weight = vote_weight(self.vote_weights, num_out, dim_out, dim_in)

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        poses, activations = capsules
        if self.vote_weights == self.num_in or torch.compiler.is_compiling():
            return self.from_votes(vote(poses, self.weight), activations)
        parents = shared_dynamic_routing(
            poses.reshape(-1, *poses.shape[-2:]),
            self.weight,
            self.iterations,
            leaky=self.leaky,
            activations=activations.reshape(-1, activations.shape[-1]) if self.amendment else None,
            offset=self.offset,
        )
        return Capsules.from_vectors(parents.reshape(*poses.shape[:-2], *parents.shape[-2:]))

    @override
    def from_votes(self, votes: Tensor, activations: Tensor) -> Capsules:
        return Capsules.from_vectors(self._route(votes, activations)[0])

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the couplings of the last pass, multiplied by the activations of the children if they amend them."""
        return self._route(vote(capsules.poses, self.weight), capsules.activations)[1]

    def _route(self, votes: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
        counted = activations if self.amendment else None
        return dynamic_routing(votes, self.iterations, leaky=self.leaky, activations=counted, offset=self.offset)
