"""SE-routing, which weighs all children of a map at once, in one pass.

LaLonde, Khosravan & Bagci, Deformable Capsules for Object Detection, 2021 (arXiv 2104.05031). Their code is not public
and their abstract states no equations; the descriptors and the sizes here are ours. The two dense layers are those of
Hu, Shen & Sun, Squeeze-and-Excitation Networks, CVPR 2018 (arXiv 1709.01507), section 3.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.votes import vote, vote_weight
from capsule_lightning.routing.base import Routing


@full_precision
def descriptors(votes: Tensor, activations: Tensor) -> Tensor:
    """Describe each pair of child and parent by two numbers: is the child there, and do the others vote as it does.

    Args:
        votes: ``(..., I, J, E)``.
        activations: ``(..., I)``, of the children.

    Returns:
        ``(..., I, J, 2)``, the child's activation, and the cosine between its vote and the mean of all votes for that
        parent; 0 where one of them is zero.
    """
    mean = votes.mean(dim=-3, keepdim=True)
    cosine = F.cosine_similarity(votes, mean, dim=-1, eps=1e-8)
    return torch.stack([activations.unsqueeze(-1).expand_as(cosine), cosine], dim=-1)


class SERouting(Routing):
    """Routing in one pass: couplings that two dense layers find from what all positions say about a pair of types.

    The descriptors of each pair of child and parent are averaged over the positions of a map, see ``map_dims``. A dense
    layer with ReLU and another one give the logits of the couplings, which are therefore the same at all positions;
    poses are squashed sums of votes. The dense layers have ``4 (I J)^2 / ratio`` weights and more: this routing is for
    few children.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`.
        ratio: how much narrower the first dense layer is than its input, r in Hu et al.
        map_dims: leading dimensions next to the children that are the positions of one map, 2 for rows and columns,
            which share their couplings; 0 if the leading dimensions are free.
        bias: learn a bias ``(J, E)`` on the parents' inputs, initially 0.1, as SegCaps does.

    Raises:
        InputError: ``ratio`` is below 1, or ``map_dims`` is negative.
    """

    routes_votes = True
    gives_lengths = True

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        vote_weights: int | None = None,
        ratio: int = 4,
        map_dims: int = 0,
        bias: bool = False,
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        require(ratio >= 1, f"SERouting: ratio={ratio}: expected at least 1")
        require(map_dims >= 0, f"SERouting: map_dims={map_dims}: expected 0 or more")
        self.map_dims, self.of_whole_maps = map_dims, map_dims > 0
        self.weight = vote_weight(self.vote_weights, num_out, dim_out, dim_in)
        self.bias = nn.Parameter(torch.full((num_out, dim_out), 0.1)) if bias else None
        hidden = max(1, 2 * num_in * num_out // ratio)
        self.squeeze = nn.Parameter(torch.empty(num_in, num_out, 2, hidden))
        self.squeeze_bias = nn.Parameter(torch.zeros(hidden))
        self.excite = nn.Parameter(torch.empty(hidden, num_in, num_out))
        self.excite_bias = nn.Parameter(torch.zeros(num_in, num_out))
        for layer, fan_in in ((self.squeeze, 2 * num_in * num_out), (self.excite, hidden)):
            nn.init.normal_(layer, std=sqrt(1 / fan_in))

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        return self.from_votes(vote(capsules.poses, self.weight), capsules.activations)

    @override
    def from_votes(self, votes: Tensor, activations: Tensor) -> Capsules:
        couplings = self._couplings(votes, activations)
        return Capsules.from_vectors(squashed_sum(couplings, votes, self.bias))

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the couplings, which sum to 1 over the parents."""
        return self._couplings(vote(capsules.poses, self.weight), capsules.activations)

    def _couplings(self, votes: Tensor, activations: Tensor) -> Tensor:
        found = descriptors(votes, activations)  # (..., I, J, 2)
        if self.map_dims:
            found = found.mean(dim=tuple(range(-3 - self.map_dims, -3)), keepdim=True)
        logits = excited(found, self.squeeze, self.squeeze_bias, self.excite, self.excite_bias)
        return coupling_coefficients(logits).expand(votes.shape[:-1])


@full_precision
def excited(found: Tensor, squeeze: Tensor, squeeze_bias: Tensor, excite: Tensor, excite_bias: Tensor) -> Tensor:
    """Return the logits ``(..., I, J)`` of two dense layers, which each see all pairs of children and parents.

    Args:
        found: ``(..., I, J, 2)``.
        squeeze: ``(I, J, 2, H)``, with ReLU after it.
        squeeze_bias: ``(H)``.
        excite: ``(H, I, J)``.
        excite_bias: ``(I, J)``.
    """
    hidden = F.relu(torch.einsum("...ijk,ijkh->...h", found, squeeze) + squeeze_bias)
    return torch.einsum("...h,hij->...ij", hidden, excite) + excite_bias


@full_precision
def squashed_sum(couplings: Tensor, votes: Tensor, bias: Tensor | None) -> Tensor:
    """Return parents ``(..., J, E)``, ``squash(sum_i c[i, j] v[i, j] + b[j])``.

    Args:
        couplings: ``(..., I, J)``.
        votes: ``(..., I, J, E)``.
        bias: ``(J, E)``; None for none.
    """
    s = torch.einsum("...ij,...ije->...je", couplings, votes)
    return squash(s if bias is None else s + bias)
