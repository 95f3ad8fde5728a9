"""Dynamic routing by agreement.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), Procedure 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.kernels.blocks_of_votes import chosen_backend
from capsule_lightning.kernels.cpu_dynamic import blocked_dynamic_routing
from capsule_lightning.layers.couplings import coupling_coefficients, require_passes
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.votes import own_vote_weight, vote, vote_weight
from capsule_lightning.routing.base import Routing

Backend = Literal["auto", "torch", "blocked", "compiled", "triton"]


@full_precision
def dynamic_routing(
    votes: Tensor, iterations: int = 3, bias: Tensor | None = None, leaky: bool = False, detach: bool = False
) -> tuple[Tensor, Tensor]:
    """Procedure 1: couplings follow the agreement between a child's vote and the parent it voted for.

    Args:
        votes: ``(..., I, J, E)``.
        iterations: number of passes r, at least 1; the first has uniform couplings.
        bias: ``(J, E)``, added to every ``s[j]`` (released code; the paper has none).
        leaky: see `coupling_coefficients`.
        detach: let no gradient flow through the couplings, a cheaper and different estimator.

    Returns:
        Poses ``(..., J, E)`` of length in [0, 1), and the couplings ``(..., I, J)`` that made them.

    Raises:
        InputError: ``iterations`` below 1.
    """
    require_passes(iterations)

    def parents(couplings: Tensor, votes: Tensor) -> Tensor:
        s = torch.einsum("...ij,...ije->...je", couplings, votes)
        return squash(s if bias is None else s + bias)  # (..., J, E)

    logits = votes.new_zeros(votes.shape[:-1])  # (..., I, J), per example, never learnt
    with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
        for _ in range(iterations - 1):
            v = parents(coupling_coefficients(logits, leaky), votes)
            logits = logits + torch.einsum("...ije,...je->...ij", votes, v)
    couplings = coupling_coefficients(logits, leaky)
    return parents(couplings, votes), couplings


class DynamicRouting(Routing):
    """Routing by agreement between votes and parents.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`.
        iterations: passes of routing, 3 in the paper; 1 gives uniform couplings.
        leaky: a none-of-the-above parent, as the paper's CIFAR-10 network has.
        bias: learn a bias ``(J, E)`` on the parents' inputs, initially 0.1, as the released code does.
        detach: no gradient through the couplings. The paper's authors let it flow through all iterations.
        backend: ``torch``, the plain functions; ``compiled``, the same by `torch.compile`; ``blocked``, the same a
            block of the batch at a time, for CPUs; ``triton``, the same in kernels for GPUs, which have been compiled
            and interpreted but not yet run on one; or ``auto``: ``blocked`` for float32 on a CPU where nothing is being
            compiled, else ``torch``, which alone has higher derivatives.

    Raises:
        InputError: ``iterations`` below 1, or an unknown ``backend``.

    Example:
        >>> routing = DynamicRouting(1152, 8, 10, 16)
        >>> routing(Capsules.from_vectors(torch.rand(2, 1152, 8))).poses.shape
        torch.Size([2, 10, 16])
    """

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        vote_weights: int | None = None,
        iterations: int = 3,
        leaky: bool = False,
        bias: bool = False,
        detach: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        require_passes(iterations)
        self.require_one_of("backend", backend, get_args(Backend))
        self.iterations, self.leaky, self.detach, self.backend = iterations, leaky, detach, backend
        self.weight = vote_weight(self.vote_weights, num_out, dim_out, dim_in)
        self.bias = nn.Parameter(torch.full((num_out, dim_out), 0.1)) if bias else None

    def forward(self, capsules: Capsules) -> Capsules:
        """See `Routing.forward`."""
        poses = capsules.poses.reshape(-1, *capsules.poses.shape[-2:])
        route = _route(chosen_backend(self.backend, poses, self.weight))
        weight = own_vote_weight(self.weight, self.num_in)  # the fast paths know no other
        parents = route(poses, weight, self.iterations, self.bias, self.leaky, self.detach)
        return Capsules.from_vectors(parents.reshape(*capsules.poses.shape[:-2], *parents.shape[-2:]))

    def couplings(self, capsules: Capsules) -> Tensor:
        """Of the last iteration; they sum to 1 over the parents (to less with ``leaky``)."""
        votes = vote(capsules.poses, self.weight)
        return dynamic_routing(votes, self.iterations, self.bias, self.leaky, self.detach)[1]


def _route(backend: str) -> Callable[[Tensor, Tensor, int, Tensor | None, bool, bool], Tensor]:
    """From poses and weight to parents, as this backend does it."""
    if backend == "triton":
        from capsule_lightning.kernels.gpu_dynamic import triton_dynamic_routing

        return triton_dynamic_routing
    if backend == "compiled":
        return _compiled()
    return blocked_dynamic_routing if backend == "blocked" else _plain


def _plain(poses: Tensor, weight: Tensor, iterations: int, bias: Tensor | None, leaky: bool, detach: bool) -> Tensor:
    return dynamic_routing(vote(poses, weight), iterations, bias, leaky, detach)[0]


@cache
def _compiled() -> Callable[..., Tensor]:
    """One for all layers, made when the first of them needs it."""
    return torch.compile(_plain)
