"""Routing by kernel density estimation: parents move to where the votes are dense, until that no longer gains much.

Zhao, Peng, Eger, Cambria & Yang, Towards Scalable and Reliable Capsule Networks for Challenging NLP Applications, ACL
2019 (arXiv 1906.02829).
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from capsule_lightning.capsules import Capsules, lengths_of
from capsule_lightning.errors import require
from capsule_lightning.kernels.shared_votes import FEW_COUPLINGS, MOST_COUPLINGS
from capsule_lightning.kernels.vote_lengths import vote_lengths
from capsule_lightning.layers.couplings import coupling_coefficients, require_passes
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.votes import vote, vote_weight
from capsule_lightning.routing.base import Routing

LEAST_DENSITY = 1e-6
"""What a density counts as that is lower, so that it has a logarithm."""


@full_precision
def kernel_density_routing(
    votes: Tensor, activations: Tensor, iterations: int = 10, tolerance: float | None = 0.05, offset: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """Route by the density of squashed votes around each parent, with the Epanechnikov kernel ``1 - |x - v|^2``.

    Each pass couples children to parents by a softmax of the logits, divides the couplings of each parent by their sum
    over its children, ``w[i, j]``, and takes ``v[j] = squash(sum_i w[i, j] u_hat[j|i])``. The closeness ``d[i, j] = 1 -
    |squash(u_hat[j|i]) - v[j]|^2`` is then added to the logits. An example is finished when the logarithm of its
    density ``sum_ij w[i, j] d[i, j]`` has moved by less than the tolerance since the pass before. Other examples have
    no say in that.

    Args:
        votes: ``(..., I, J, E)``.
        activations: ``(..., I)``, of the children, at least 0; a child of 0 is not there.
        iterations: the most passes, at least 1.
        tolerance: how little the logarithm of the density must move; None to make all passes.
        offset: of the squash, see `squash`.

    Returns:
        Poses ``(..., J, E)`` of length in [0, 1); the couplings ``(..., I, J)`` that they were computed with, before
        they were divided, which sum to 1 over the parents; and the passes that each example took, ``(...)`` int64.

    Raises:
        InputError: ``iterations`` is below 1.

    Source: Zhao et al. 2019, Algorithm 1. The released code stops by the mean density of the batch, so that an example
    depends on its neighbors, compares the first pass with 0, and never ends once that mean is negative, whose logarithm
    is NaN. Here the first pass is never the last, and densities below 1e-6 count as 1e-6.
    """
    require_passes(iterations)

    lead = votes.shape[:-3]
    flat = votes.reshape(-1, *votes.shape[-3:])  # (B, I, J, E)

    def total(shares: Tensor, votes: Tensor) -> Tensor:
        return torch.einsum("bij,bije->bje", shares, votes)

    def toward(parents: Tensor, votes: Tensor) -> Tensor:
        return torch.einsum("bije,bje->bij", votes, parents)

    here = activations.reshape(-1, activations.shape[-1])
    lengths = lengths_of(flat)
    found = _passes(lengths, flat, total, toward, here, iterations, tolerance, offset)
    poses, couplings, passes = (each.reshape((*lead, *each.shape[1:])) for each in found)
    return poses, couplings, passes


@full_precision
def shared_kernel_density_routing(
    poses: Tensor,
    weight: Tensor,
    activations: Tensor,
    iterations: int = 10,
    tolerance: float | None = 0.05,
    offset: float = 0.5,
) -> Tensor:
    """Compute the poses of `kernel_density_routing` of votes whose matrices children share.

    Of the votes only the lengths are needed, see `vote_lengths`, beside what matrices of a parent say of sums of poses,
    see `capsule_lightning.kernels.shared_votes`, so that votes are never in memory.

    Args:
        poses: ``(B, I, D)``, of the children.
        weight: ``(K, J, E, D)``; child i uses the matrices of row i modulo K.
        activations: ``(B, I)``.
        iterations, tolerance, offset: see `kernel_density_routing`.

    Returns:
        ``(B, J, E)``.
    """
    children = poses.reshape(len(poses), -1, len(weight), poses.shape[-1])  # (B, P, K, D)

    def total(shares: Tensor, children: Tensor) -> Tensor:
        of_types = shares.reshape(*children.shape[:3], -1)
        return torch.einsum("bkjd,kjed->bje", torch.einsum("bpkj,bpkd->bkjd", of_types, children), weight)

    def toward(parents: Tensor, children: Tensor) -> Tensor:
        seen = torch.einsum("bje,kjed->bkjd", parents, weight)
        return torch.einsum("bpkd,bkjd->bpkj", children, seen).flatten(1, 2)

    lengths = vote_lengths(poses, weight)
    return _passes(lengths, children, total, toward, activations, iterations, tolerance, offset)[0]


def _passes(
    lengths: Tensor,
    children: Tensor,
    total: Callable[[Tensor, Tensor], Tensor],
    toward: Callable[[Tensor, Tensor], Tensor],
    activations: Tensor,
    iterations: int,
    tolerance: float | None,
    offset: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make the passes of `kernel_density_routing`, with ``|squash(u) - v|^2 = |squash(u)|^2 - 2 g u . v + |v|^2``.

    What is finished is put aside, so that a pass takes the time of the examples that need it; while torch is compiling
    it goes along without a change.

    Args:
        lengths: ``(B, I, J)``, of the votes.
        children: ``(B, ...)``, of which the votes are.
        total: turns shares ``(B, I, J)`` and ``children`` into the sums of the votes ``(B, J, E)``.
        toward: turns parents ``(B, J, E)`` and ``children`` into their products with the votes ``(B, I, J)``.
        activations: ``(B, I)``.
        iterations, tolerance, offset: see `kernel_density_routing`.
    """
    here = (activations > 0).to(lengths.dtype).unsqueeze(-1)  # (B, I, 1)
    scale = lengths / (offset + lengths.square())  # g, by which the squash multiplies
    state = [1 - (scale * lengths).square(), 2 * scale, here, children, torch.zeros_like(lengths)]
    rows = torch.arange(len(lengths), device=lengths.device)
    passes = torch.zeros_like(rows)
    going, before = passes == 0, lengths.new_zeros(len(lengths))
    done: list[tuple[Tensor, Tensor, Tensor]] = []
    for number in range(iterations):
        alone, twice, here, children, logits = state
        couplings = coupling_coefficients(logits)
        shares = here * couplings
        sums = shares.sum(dim=-2).clamp_min(torch.finfo(shares.dtype).tiny)  # (B, J), by which shares are divided
        poses = squash(total(shares, children) / sums.unsqueeze(-1), offset=offset)
        passes = passes.index_add(0, rows, going.long())
        if number == iterations - 1:
            break
        closeness = torch.addcmul(alone, twice, toward(poses, children)) - poses.square().sum(dim=-1).unsqueeze(-2)
        if tolerance is not None:
            with torch.no_grad():
                density = ((shares * closeness).sum(dim=-2) / sums).sum(dim=-1).clamp_min(LEAST_DENSITY).log()
                going = going & ((density - before).abs() >= tolerance) if number else going
                before = density
            closeness = closeness * going[:, None, None]
        state = [alone, twice, here, children, logits + closeness]
        if torch.compiler.is_compiling() or going.all():
            continue
        done.append((rows[~going], poses[~going], couplings[~going]))
        rows, before, *state = (each[going] for each in (rows, before, *state))
        going = going[going]
        if not len(rows):
            break
    if len(rows) or not done:
        done.append((rows, poses, couplings))
    order = torch.cat([each[0] for each in done]).argsort()
    poses, couplings = (torch.cat([each[n] for each in done])[order] for n in (1, 2))
    return poses, couplings, passes


class KDERouting(Routing):
    """Routing by kernel density estimation, each example with as many passes as it needs.

    Where children share their matrices, votes are never in memory, and couplings, unless there are few, are formed for
    some examples at a time and again by the backward pass.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`.
        iterations: the most passes of routing.
        tolerance: an example is finished when the logarithm of its density moves by less, 0.05 in the paper; null to
            make all passes.
        offset: of the squash ``|s| / (offset + |s|^2) s``, 0.5 in the released code.

    Raises:
        InputError: ``iterations`` is below 1, ``offset`` is not above 0, or ``tolerance`` is negative.

    Source: Zhao et al. 2019 (arXiv 1906.02829).

    Example:
        >>> routing = KDERouting(128, 16, 20, 16)
        >>> routing(Capsules.from_vectors(torch.rand(2, 128, 16))).poses.shape
        torch.Size([2, 20, 16])
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
        iterations: int = 10,
        tolerance: float | None = 0.05,
        offset: float = 0.5,
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        require_passes(iterations)
        require(
            tolerance is None or (isfinite(tolerance) and tolerance >= 0),
            f"KDERouting: tolerance={tolerance}: expected a number of 0 or more, or null",
        )
        require(offset > 0, f"KDERouting: offset={offset}: expected a number above 0, such as 0.5")
        self.iterations, self.tolerance, self.offset = iterations, tolerance, offset
        self.weight = vote_weight(self.vote_weights, num_out, dim_out, dim_in)

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        if self.vote_weights == self.num_in or torch.compiler.is_compiling():
            return self.from_votes(vote(capsules.poses, self.weight), capsules.activations)
        poses = capsules.poses.reshape(-1, *capsules.poses.shape[-2:])
        activations = capsules.activations.reshape(-1, poses.shape[1])
        couplings = poses.shape[1] * self.num_out
        size = max(1, MOST_COUPLINGS // couplings)
        keeps = len(poses) * couplings <= FEW_COUPLINGS or not torch.is_grad_enabled()
        parts = [
            self._parents(*block)
            if keeps
            else checkpoint(self._parents, *block, use_reentrant=False, preserve_rng_state=False)
            for block in zip(torch.split(poses, size), torch.split(activations, size), strict=True)
        ]
        parents = torch.cat(parts)
        return Capsules.from_vectors(parents.reshape(*capsules.poses.shape[:-2], *parents.shape[-2:]))

    @override
    def from_votes(self, votes: Tensor, activations: Tensor) -> Capsules:
        return Capsules.from_vectors(self._route(votes, activations)[0])

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the couplings of the last pass of each example, which sum to 1 over the parents."""
        return self._route(vote(capsules.poses, self.weight), capsules.activations)[1]

    def passes(self, capsules: Capsules) -> Tensor:
        """Return how many passes each example takes, ``(...)`` int64."""
        return self._route(vote(capsules.poses, self.weight), capsules.activations)[2]

    def _parents(self, poses: Tensor, activations: Tensor) -> Tensor:
        settings = self.iterations, self.tolerance, self.offset
        return shared_kernel_density_routing(poses, self.weight, activations, *settings)

    def _route(self, votes: Tensor, activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return kernel_density_routing(votes, activations, self.iterations, self.tolerance, self.offset)
