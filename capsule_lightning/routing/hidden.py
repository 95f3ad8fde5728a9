"""Routing in two steps, through a few hidden capsules: what makes a thousand classes affordable.

Heinsen, An Algorithm for Routing Vectors in Sequences, 2022 (arXiv 2211.11754), routes long sequences this way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.inverted_dot_product import InvertedDotProductRouting


class HiddenRouting(Routing):
    """Children are routed to hidden capsules, and these to the parents, each step by an algorithm of its own.

    With H hidden capsules there are ``I H + H J`` votes in place of ``I J``, and as many matrices.

    By default both steps normalize their parents (layer normalization). Squash would not do: it makes short vectors
    shorter by the square, and of children that divide themselves among a thousand parents nothing would be left after
    two steps.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`; the children of the first step may share
            matrices.
        hidden: hidden capsules, H.
        hidden_dim: dimensions of their poses.
        first: called with ``(num_in, dim_in, hidden, hidden_dim)`` and ``vote_weights``; null for
            `InvertedDotProductRouting` without activations, at which the second step would not look.
        second: called with ``(hidden, hidden_dim, num_out, dim_out)``.

    Raises:
        InputError: a size is below 1, or what the two steps refuse.

    Example:
        >>> import torch
        >>> routing = HiddenRouting(392, 16, 1000, 16, vote_weights=8)
        >>> routing(Capsules.from_vectors(torch.rand(2, 392, 16))).poses.shape
        torch.Size([2, 1000, 16])
    """

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        vote_weights: int | None = None,
        hidden: int = 64,
        hidden_dim: int = 16,
        first: Callable[[int, int, int, int], Routing] | None = None,
        second: Callable[[int, int, int, int], Routing] = InvertedDotProductRouting,
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        for argument, size in {"hidden": hidden, "hidden_dim": hidden_dim}.items():
            require(size >= 1, f"HiddenRouting: {argument}={size}: expected at least 1")
        shared: dict[str, int] = {} if vote_weights is None else {"vote_weights": vote_weights}
        step: Callable[..., Routing] = partial(InvertedDotProductRouting, readout=False) if first is None else first
        self.first = step(num_in, dim_in, hidden, hidden_dim, **shared)
        self.second = second(hidden, hidden_dim, num_out, dim_out)
        self.vote_weights = self.first.vote_weights

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        parents: Capsules = self.second(self.first(capsules))
        return parents

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return how much of each child reaches each parent, ``(..., I, J)``, the product of both steps' couplings."""
        return _product(self.first.couplings(capsules), self.second.couplings(self.first(capsules)))


@full_precision
def _product(first: Tensor, second: Tensor) -> Tensor:
    return first @ second
