"""Dynamic routing by agreement.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), Procedure 1.

`dynamic_routing` defines the algorithm, but is not what trains by default: ``backend: auto`` chooses
`capsule_lightning.kernels.native_dynamic` or `capsule_lightning.kernels.cpu_dynamic` on a CPU in float32,
`capsule_lightning.kernels.gpu_dynamic` on a GPU, and `capsule_lightning.kernels.shared_votes` if children share their
matrices; all compute the same function without keeping the votes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.kernels.blocks_of_votes import choose_backend
from capsule_lightning.kernels.cpu_dynamic import blocked_dynamic_routing
from capsule_lightning.kernels.dynamic_of_votes import dynamic_routing_of_votes
from capsule_lightning.kernels.native_dynamic import native_dynamic_routing, suits
from capsule_lightning.kernels.shared_votes import shared_dynamic_routing
from capsule_lightning.layers.couplings import coupling_coefficients, require_passes
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.votes import own_vote_weight, vote, vote_weight
from capsule_lightning.routing.base import Routing

Backend = Literal["auto", "torch", "blocked", "native", "shared", "compiled", "triton"]


@full_precision
def dynamic_routing(
    votes: Tensor,
    iterations: int = 3,
    bias: Tensor | None = None,
    leaky: bool = False,
    detach: bool = False,
    activations: Tensor | None = None,
    offset: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Route by Procedure 1: couplings follow the agreement between a child's vote and the parent that it votes for.

    Args:
        votes: ``(..., I, J, E)``.
        iterations: number of passes, r, at least 1; the first has uniform couplings.
        bias: ``(J, E)``, added to every ``s[j]`` as in the released code; the paper has none.
        leaky: see `coupling_coefficients`.
        detach: let no gradient flow through the couplings, which is a cheaper and different estimator.
        activations: ``(..., I)`` of the children, by which their couplings are multiplied (Zhao et al. 2018, see
            `StabilizedRouting`); None to leave the couplings, as the paper does.
        offset: of the squash, see `squash`.

    Returns:
        Poses ``(..., J, E)`` of length in [0, 1), and the couplings ``(..., I, J)`` that they were computed with.

    Raises:
        InputError: ``iterations`` is below 1.
    """
    require_passes(iterations)

    def couple(logits: Tensor) -> Tensor:
        couplings = coupling_coefficients(logits, leaky)
        return couplings if activations is None else activations.unsqueeze(-1) * couplings

    def parents(couplings: Tensor, votes: Tensor) -> Tensor:
        s = torch.einsum("...ij,...ije->...je", couplings, votes)
        return squash(s if bias is None else s + bias, offset=offset)  # (..., J, E)

    logits = votes.new_zeros(votes.shape[:-1])  # (..., I, J), per example, never learnt
    with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
        for _ in range(iterations - 1):
            v = parents(couple(logits), votes)
            logits = logits + torch.einsum("...ije,...je->...ij", votes, v)
    couplings = couple(logits)
    return parents(couplings, votes), couplings


class DynamicRouting(Routing):
    """Routing by agreement between votes and parents, Procedure 1 of Sabour et al. 2017.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`.
        iterations: passes of routing, 3 in the paper; 1 gives uniform couplings.
        leaky: add a none-of-the-above parent, as the paper's CIFAR-10 network has.
        bias: learn a bias ``(J, E)`` on the parents' inputs, initially 0.1, as the released code does.
        detach: let no gradient flow through the couplings. The paper's authors let it flow through all iterations.
        backend: how the same function is computed. ``torch``: the plain functions, which alone have higher derivatives;
            ``compiled``: these under `torch.compile`; ``blocked``: one block of the batch at a time, for CPUs;
            ``native``: a function in C for CPUs, compiled in less than a second when it is first needed
            (`capsule_lightning.kernels.native_dynamic`); ``shared``: without forming votes, for children that share
            their matrices; ``triton``: kernels for GPUs (`capsule_lightning.kernels.gpu_dynamic`); ``auto``: unless
            torch is compiling, ``shared`` if ``vote_weights`` is less than ``num_in``, or else, in float32 on a CPU,
            ``native`` to train a layer that is large enough if there is a C compiler, and ``blocked``; ``triton`` on a
            GPU if Triton is installed and the parents fit into its registers; otherwise ``torch``.

    Raises:
        InputError: ``iterations`` is below 1, or ``backend`` is unknown.

    Example:
        >>> routing = DynamicRouting(1152, 8, 10, 16)
        >>> routing(Capsules.from_vectors(torch.rand(2, 1152, 8))).poses.shape
        torch.Size([2, 10, 16])
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

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        # by default this calls a kernel on a CPU in float32; `dynamic_routing` runs only if no kernel is chosen
        poses = capsules.poses.reshape(-1, *capsules.poses.shape[-2:])
        backend = self._choose_backend(poses)
        route = _route(backend)
        # all other fast paths take one row for each child
        weight = self.weight if backend == "shared" else own_vote_weight(self.weight, poses.shape[-2])
        parents = route(poses, weight, self.iterations, self.bias, self.leaky, self.detach)
        return Capsules.from_vectors(parents.reshape(*capsules.poses.shape[:-2], *parents.shape[-2:]))

    def _choose_backend(self, poses: Tensor) -> str:
        """Return what ``auto`` stands for with these poses; any other backend as it is."""
        if self.backend == "auto" and not torch.compiler.is_compiling():
            if self.vote_weights < self.num_in:
                return "shared"
            if poses.device.type == "cuda":
                from capsule_lightning.kernels.gpu_dynamic import suits as suits_triton

                return "triton" if suits_triton(poses.device, self.num_out, self.dim_out) else "torch"
        backend = choose_backend(self.backend, poses, self.weight)
        if self.backend != "auto" or backend != "blocked":
            return backend
        settings = self.iterations, self.leaky, self.detach
        return "native" if suits(poses, self.weight, *settings) else backend

    @override
    def from_votes(self, votes: Tensor, activations: Tensor) -> Capsules:
        settings = self.iterations, self.bias, self.leaky, self.detach
        if self.backend == "torch" or torch.compiler.is_compiling():
            return Capsules.from_vectors(dynamic_routing(votes, *settings)[0])
        return Capsules.from_vectors(dynamic_routing_of_votes(votes, *settings))

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the couplings of the last iteration, which sum to 1 over the parents (to less than 1 if ``leaky``)."""
        votes = vote(capsules.poses, self.weight)
        return dynamic_routing(votes, self.iterations, self.bias, self.leaky, self.detach)[1]


def _route(backend: str) -> Callable[[Tensor, Tensor, int, Tensor | None, bool, bool], Tensor]:
    """Return the function by which a backend computes parents from poses and weight."""
    if backend == "triton":
        from capsule_lightning.kernels.gpu_dynamic import triton_dynamic_routing

        return triton_dynamic_routing
    if backend == "compiled":
        return _compiled()
    routes = {"blocked": blocked_dynamic_routing, "native": native_dynamic_routing, "shared": shared_dynamic_routing}
    return routes.get(backend, _plain)


def _plain(poses: Tensor, weight: Tensor, iterations: int, bias: Tensor | None, leaky: bool, detach: bool) -> Tensor:
    return dynamic_routing(vote(poses, weight), iterations, bias, leaky, detach)[0]


@cache
def _compiled() -> Callable[..., Tensor]:
    """Return the compiled plain function, one for all layers, made when the first of them needs it."""
    return torch.compile(_plain)
