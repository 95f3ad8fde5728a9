"""Capsules of what has been translated and of what has not, routed from the source under guidance of the decoder.

Zheng, Huang, Tu, Dai & Chen, Dynamic Past and Future for Neural Machine Translation, EMNLP 2019 (arXiv 1904.09646).
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.errors import require
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash
from capsule_lightning.models.attention import FeedForward, Layout

OF_EACH = 2
"""Capsules for the past, for the future, and for what is neither (null capsules)."""
DIM = 60
"""Dimensions of a capsule."""


@full_precision
def guided_routing(
    votes: Tensor,
    query: Tensor,
    of_votes: Tensor,
    of_parents: Tensor,
    score: Tensor,
    iterations: int = 3,
) -> tuple[Tensor, Tensor]:
    """Route the words of a source to capsules, anew for each word of the target.

    The logits b begin at 0. Each iteration has ``c = softmax(b)`` over the parents,
    ``v[j] = squash(sum_i c[i, j] u[i, j])`` and
    ``b[i, j] += tanh(w . tanh(W_u u[i, j] + W_v v[j] + W_c z)) / sqrt(E)``. A word whose votes are 0 adds nothing to
    any parent: so padding is left out.

    Args:
        votes: ``(B, S, J, E)``, u.
        query: ``(B, T, E)``, ``W_c z``.
        of_votes: ``(E, E)``, W_u.
        of_parents: ``(E, E)``, W_v.
        score: ``(E)``, w.
        iterations: at least 1.

    Returns:
        Parents ``(B, T, J, E)`` and the couplings ``(B, T, S, J)`` that they were made with. It takes
        ``B T S J E`` numbers an iteration.
    """
    batch, words, parents, dim = votes.shape
    steps = query.shape[1]
    said = (votes @ of_votes.T).unsqueeze(1)  # (B, 1, S, J, E)
    asked = query[:, :, None, None]  # (B, T, 1, 1, E)
    logits = votes.new_zeros(batch, steps, words, parents)
    for iteration in range(iterations):
        couplings = logits.softmax(dim=-1)
        capsules = squash(torch.einsum("btsj,bsje->btje", couplings, votes))
        if iteration < iterations - 1:
            agreed = torch.tanh(said + (capsules @ of_parents.T).unsqueeze(2) + asked)
            logits = logits + torch.tanh(agreed @ score) / sqrt(dim)
    return capsules, couplings


class Guided(NamedTuple):
    """What the capsules add to the decoder.

    Attributes:
        states: ``(B, T, d)``, those of the decoder with past and future.
        past, future: ``(B, T, 120)``, the capsules.
    """

    states: Tensor
    past: Tensor
    future: Tensor


class PastFuture(nn.Module):
    """Two capsules for the past, two for the future and two null capsules of 60 dimensions, on top of the decoder.

    Past and future are put next to the decoder's state, normalized, and added to it by a feed-forward part. Their
    votes depend on the source alone and are formed once for each sentence.

    Args:
        layout: of the Transformer.
        iterations: of the routing, at least 1.

    Raises:
        InputError: ``iterations`` below 1.
    """

    def __init__(self, layout: Layout, iterations: int = 3) -> None:
        super().__init__()
        require(iterations >= 1, f"iterations={iterations}: expected at least 1")
        self.iterations = iterations
        dim, both = layout.dim, 2 * OF_EACH * DIM
        self.weight = nn.Parameter(torch.empty(3 * OF_EACH, DIM, dim))
        self.of_votes, self.of_parents = (nn.Parameter(torch.empty(DIM, DIM)) for _ in range(2))
        self.of_query, self.score = nn.Parameter(torch.empty(DIM, dim)), nn.Parameter(torch.empty(DIM))
        nn.init.normal_(self.weight, std=0.01)
        for parameter in (self.of_votes, self.of_parents, self.of_query, self.score):
            nn.init.normal_(parameter, std=0.001)
        self.norm = nn.LayerNorm(dim + both)
        self.feed_forward = FeedForward(dim + both, layout)
        self.dropout = nn.Dropout(layout.dropout)
        self.past_words, self.future_words = (nn.Linear(both // 2, dim) for _ in range(2))

    def votes(self, source: Tensor, mask: Tensor) -> Tensor:
        """Return the votes ``(B, S, 6, 60)`` of a source's states ``(B, S, d)``; those of padding are 0.

        Args:
            source: the encoder's states.
            mask: ``(B, S)`` bool, which of them are no padding.
        """
        votes = torch.einsum("bsd,jed->bsje", source, self.weight)
        return votes * mask[:, :, None, None].to(votes.dtype)

    def capsules(self, states: Tensor, votes: Tensor) -> tuple[Tensor, Tensor]:
        """Return capsules ``(B, T, 6, 60)``, past first and null last, and couplings ``(B, T, S, 6)``."""
        query = states @ self.of_query.T
        return guided_routing(votes, query, self.of_votes, self.of_parents, self.score, self.iterations)

    @override
    def forward(self, states: Tensor, votes: Tensor) -> Guided:
        """Return what becomes of the decoder's normalized states ``(B, T, d)``."""
        parents, _ = self.capsules(states, votes)
        past, future = (parents[:, :, start : start + OF_EACH].flatten(2).to(states.dtype) for start in (0, OF_EACH))
        normal = self.norm(torch.cat([states, past, future], dim=-1))
        return Guided(states + self.dropout(self.feed_forward(normal)), past, future)

    def words(self, guided: Guided) -> tuple[Tensor, Tensor]:
        """Return states ``(B, T, d)`` from which the words of the past and of the future are to be told."""
        return torch.tanh(self.past_words(guided.past)), torch.tanh(self.future_words(guided.future))
