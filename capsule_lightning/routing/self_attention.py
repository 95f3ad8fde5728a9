"""Self-attention routing: a single pass, with couplings from how much the votes for a parent resemble each other.

Mazzia, Salvetti & Chiaberge, Efficient-CapsNet: Capsule Network with Self-Attention Routing, 2021 (arXiv 2101.12491).
"""

from __future__ import annotations

from math import sqrt
from typing import get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.kernels.blocks_of_votes import choose_backend
from capsule_lightning.kernels.cpu_attention import AttentionBackend, blocked_attention
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import exponential_squash
from capsule_lightning.layers.votes import vote, vote_weight
from capsule_lightning.routing.base import Routing


@full_precision
def self_attention_routing(votes: Tensor, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return parents that are attended sums of votes, ``v[j] = squash(sum_i (c[i, j] + prior[i, j]) u_hat[i, j])``.

    ``c`` is a softmax over the parents of ``a[i, j] = sum_m u_hat[i, j] . u_hat[m, j] / sqrt(E)``. The sum over m is
    taken inside the product, so that the cost is linear in the number of children and no matrix of pairs is formed.

    Args:
        votes: ``(..., I, J, E)``, u_hat.
        prior: ``(I, J)``, added after the softmax, so that the couplings need not sum to 1.

    Returns:
        Poses ``(..., J, E)`` of length in [0, 1], and the couplings ``c (..., I, J)``, without the prior.

    Source: Mazzia et al. 2021, Eq. 4 to 7; d = E, the size of a vote, as in the released code.
    """
    total = votes.sum(dim=-3)  # (..., J, E)
    agreement = torch.einsum("...ije,...je->...ij", votes, total) / sqrt(votes.shape[-1])
    couplings = coupling_coefficients(agreement)
    weights = couplings if prior is None else couplings + prior
    return exponential_squash(torch.einsum("...ij,...ije->...je", weights, votes)), couplings


@full_precision
def blocked_self_attention_routing(poses: Tensor, weight: Tensor, prior: Tensor | None = None) -> Tensor:
    """Return the poses of `self_attention_routing`, one block of the batch at a time; see `blocked_attention`.

    Args:
        poses: ``(..., I, D)``.
        weight: ``(K, J, E, D)`` of `vote`.
        prior: ``(I, J)``.

    Returns:
        ``(..., J, E)``.
    """
    return exponential_squash(blocked_attention(poses, weight, prior=prior, scale=1 / sqrt(weight.shape[-2])))


class SelfAttentionRouting(Routing):
    """Routing in one pass by the agreement of the votes among themselves.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`.
        prior: learn a prior ``(I, J)``, initially 0, that is added to the couplings.
        backend: how the same function is computed. ``torch``: the plain functions, which alone have higher derivatives;
            ``blocked``: one block of the batch at a time, for CPUs; ``auto``: ``blocked`` in float32 on a CPU unless
            torch is compiling, otherwise ``torch``.

    Raises:
        InputError: ``backend`` is unknown.

    Example:
        >>> routing = SelfAttentionRouting(16, 8, 10, 16)
        >>> routing(Capsules.from_vectors(torch.rand(2, 16, 8))).poses.shape
        torch.Size([2, 10, 16])
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
        prior: bool = True,
        backend: AttentionBackend = "auto",
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        self.require_one_of("backend", backend, get_args(AttentionBackend))
        self.backend = backend
        # the released code draws He-normal numbers and counts every pair of capsules in the fan
        std = sqrt(2 / (self.vote_weights * num_out * dim_in)) / 0.88
        self.weight = vote_weight(self.vote_weights, num_out, dim_out, dim_in, std=std)
        self.prior = nn.Parameter(torch.zeros(num_in, num_out)) if prior else None

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        if choose_backend(self.backend, capsules.poses, self.weight) == "blocked":
            return Capsules.from_vectors(blocked_self_attention_routing(capsules.poses, self.weight, self.prior))
        return Capsules.from_vectors(self._route(capsules)[0])

    @override
    def from_votes(self, votes: Tensor, activations: Tensor) -> Capsules:
        return Capsules.from_vectors(self_attention_routing(votes, self.prior)[0])

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the softmax alone, which sums to 1 over the parents; routing adds the learnt ``prior`` to it."""
        return self._route(capsules)[1]

    def _route(self, capsules: Capsules) -> tuple[Tensor, Tensor]:
        return self_attention_routing(vote(capsules.poses, self.weight), self.prior)
