"""Inverted dot-product attention routing, in which votes count more the better they agree with a parent's last pose.

Tsai, Srivastava, Goh & Salakhutdinov, Capsules with Inverted Dot-Product Attention Routing, ICLR 2020 (arXiv
2002.04764).
"""

from __future__ import annotations

from math import isqrt, sqrt
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.kernels.blocks_of_votes import choose_backend
from capsule_lightning.kernels.cpu_attention import AttentionBackend, blocked_attention
from capsule_lightning.layers.couplings import coupling_coefficients, require_passes
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.readout import ActivationReadout
from capsule_lightning.layers.votes import matrix_vote, own_vote_weight, sum_of_votes, vote
from capsule_lightning.routing.base import Pose, Routing


@full_precision
def normalized_mean(total: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the parents of the first round, whose couplings are all 1 / J: ``p[j] = LayerNorm(sum_i v[i, j] / J)``.

    Args:
        total: ``(..., J, E)``, the sum of the votes.
        weight, bias: ``(E)``, of the layer normalization.

    Source: Tsai et al. 2020, Procedure 1, in which the parents are zero before the first round.
    """
    return F.layer_norm(total / total.shape[-2], weight.shape, weight, bias)


@full_precision
def inverted_dot_product_routing(
    votes: Tensor, parents: Tensor, weight: Tensor, bias: Tensor, rounds: int = 1, scaled: bool = True
) -> tuple[Tensor, Tensor]:
    """Update parents by ``p[j] = LayerNorm(sum_i r[i, j] v[i, j])``.

    The couplings r are the softmax over the parents of ``p[j] . v[i, j] / sqrt(E)``.

    Args:
        votes: ``(..., I, J, E)``, v.
        parents: ``(..., J, E)``, poses of the parents before the update, p.
        weight, bias: ``(E)``, of the layer normalization.
        rounds: number of updates, at least 1.
        scaled: divide by ``sqrt(E)``, as the released code does; the paper's formula does not.

    Returns:
        Poses ``(..., J, E)``, and the couplings ``(..., I, J)`` that they were computed with.

    Source: Tsai et al. 2020, Procedure 1, Eq. 2 and 3.
    """
    # one matrix for each parent: a view if a product has just formed the votes, otherwise one copy
    of_parents = votes.transpose(-3, -2).reshape(-1, votes.shape[-3], votes.shape[-1])  # (N * J, I, E)
    scale = 1 / sqrt(votes.shape[-1]) if scaled else 1.0
    for _ in range(rounds):
        agreement = torch.bmm(of_parents, parents.reshape(len(of_parents), -1, 1)).view(*parents.shape[:-1], -1)
        couplings = coupling_coefficients(scale * agreement, dim=-2)  # (..., J, I)
        total = torch.bmm(couplings.view(len(of_parents), 1, -1), of_parents).view(parents.shape)
        parents = F.layer_norm(total, weight.shape, weight, bias)
    return parents, couplings.transpose(-1, -2)


@full_precision
def blocked_inverted_dot_product_routing(
    poses: Tensor, maps: Tensor, parents: Tensor, weight: Tensor, bias: Tensor, rounds: int = 1, scaled: bool = True
) -> Tensor:
    """Return the poses of `inverted_dot_product_routing`, one block of the batch at a time; see `blocked_attention`.

    Args:
        poses: ``(..., I, D)``, of the children.
        maps: ``(K, J, E, D)``, the weight of `vote`.
        parents, weight, bias, rounds, scaled: see `inverted_dot_product_routing`.

    Returns:
        ``(..., J, E)``.
    """
    scale = 1 / sqrt(parents.shape[-1]) if scaled else 1.0
    maps = own_vote_weight(maps, poses.shape[-2])  # once for all rounds
    for _ in range(rounds):
        total = blocked_attention(poses, maps, parents, scale=scale)
        parents = F.layer_norm(total, weight.shape, weight, bias)
    return parents


class InvertedDotProductRouting(Routing):
    """Routing by the agreement of votes with layer-normalized parents, without squash.

    The activations of the children are ignored.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`.
        iterations: rounds of routing, 2 in the paper; 1 gives uniform couplings.
        pose: see `has_matrices`.
        readout: compute activations as the sigmoid of a linear score of the pose, the same for all parents, so that the
            cross-entropy of the activations' log-odds is the loss of the paper, for scores of up to 16 in float32;
            ``false`` for activations of 1, as between the layers of the paper.
        scaled: divide the agreements by ``sqrt(dim_out)``, as the released code does, which produced the published
            results; ``false`` for the formula of the paper.
        backend: how the same function of vector poses is computed. ``torch``: the plain functions, which alone have
            higher derivatives; ``blocked``: one block of the batch at a time, for CPUs; ``auto``: ``blocked`` in
            float32 on a CPU unless torch is compiling, otherwise ``torch``.

    Raises:
        InputError: ``iterations`` is below 1; ``pose`` or ``backend`` is unknown; ``pose`` is ``matrix`` and the
            dimensions are not the same square number, or the backend is ``blocked``.

    Example:
        >>> routing = InvertedDotProductRouting(288, 16, 32, 16)
        >>> routing(Capsules.from_vectors(torch.rand(2, 288, 16))).poses.shape
        torch.Size([2, 32, 16])
    """

    routes_votes = True
    any_number = True

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        vote_weights: int | None = None,
        iterations: int = 2,
        pose: Pose = "auto",
        readout: bool = True,
        scaled: bool = True,
        backend: AttentionBackend = "auto",
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        require_passes(iterations, paper=2)
        self.require_one_of("backend", backend, get_args(AttentionBackend))
        self.matrix, self.iterations, self.scaled, self.backend = self.has_matrices(pose), iterations, scaled, backend
        require(
            not self.matrix or backend != "blocked",
            "InvertedDotProductRouting: backend=blocked with matrix poses: expected vector poses; use backend=auto or "
            "pose=vector",
        )
        rows, columns = (isqrt(dim_in),) * 2 if self.matrix else (dim_out, dim_in)
        std = sqrt(num_out / (columns * num_in))  # uniform couplings then give parents of variance 1 / J
        self.weight = nn.Parameter(std * torch.randn(self.vote_weights, num_out, rows, columns))
        self.norm = nn.LayerNorm(dim_out)
        self.readout = ActivationReadout(dim_out) if readout else None

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        parents = self._first_round(capsules.poses)
        if self.iterations > 1:
            parents = self._update(capsules.poses, parents, self.iterations - 1)
        return self._capsules(parents)

    @override
    def from_votes(self, votes: Tensor, activations: Tensor) -> Capsules:
        norm = self.norm
        parents = normalized_mean(votes.sum(dim=-3), norm.weight, norm.bias)
        if self.iterations > 1:
            rounds = self.iterations - 1
            parents = inverted_dot_product_routing(votes, parents, norm.weight, norm.bias, rounds, self.scaled)[0]
        return self._capsules(parents)

    def update(self, children: Capsules, parents: Capsules | None = None) -> Capsules:
        """Route for one round.

        Args:
            children: ``poses (..., I, D), activations (..., I)``.
            parents: ``poses (..., J, E), activations (..., J)`` of the previous round; None for uniform couplings.

        Returns:
            ``poses (..., J, E), activations (..., J)``.
        """
        if parents is None:
            return self._capsules(self._first_round(children.poses))
        return self._capsules(self._update(children.poses, parents.poses, 1))

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the couplings of the last round, which sum to 1 over the parents."""
        parents = self._first_round(capsules.poses)
        if self.iterations == 1:
            return parents.new_full((*capsules.poses.shape[:-1], self.num_out), 1 / self.num_out)
        return self._next_rounds(capsules.poses, parents, self.iterations - 1)[1]

    def _first_round(self, poses: Tensor) -> Tensor:
        return normalized_mean(sum_of_votes(poses, self.weight), self.norm.weight, self.norm.bias)

    def _update(self, poses: Tensor, parents: Tensor, rounds: int) -> Tensor:
        if self.matrix or choose_backend(self.backend, poses, self.weight) != "blocked":
            return self._next_rounds(poses, parents, rounds)[0]
        norm = self.norm
        return blocked_inverted_dot_product_routing(
            poses, self.weight, parents, norm.weight, norm.bias, rounds, self.scaled
        )

    def _next_rounds(self, poses: Tensor, parents: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
        votes = matrix_vote(poses, self.weight) if self.matrix else vote(poses, self.weight)
        return inverted_dot_product_routing(votes, parents, self.norm.weight, self.norm.bias, rounds, self.scaled)

    def _capsules(self, poses: Tensor) -> Capsules:
        return Capsules(poses, poses.new_ones(poses.shape[:-1]) if self.readout is None else self.readout(poses))
