"""Heinsen's routing of matrices, whose parents are Gaussians that gain from the data they use and pay for the rest.

Heinsen, An Algorithm for Routing Capsules in All Domains, 2019 (arXiv 1911.00792).
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.layers.couplings import coupling_coefficients, require_passes
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.votes import matrix_vote, vote
from capsule_lightning.routing.base import Routing

_EPSILON = 1e-5  # the paper's, added to the sum of the weights and to the variances


@full_precision
def heinsen_matrix_routing(
    votes: Tensor, activations: Tensor, use: Tensor, ignore: Tensor, iterations: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Route by expectation, data and maximization steps, with Gaussian parents.

    Expectation: the couplings ``R[i, j]`` are a softmax over the parents of ``log a[j] + log p[i, j]``, where p is the
    density of the vote under the parent's Gaussian; in the first pass they are uniform. Data: parent j uses the share
    ``U[i, j] = a[i] R[i, j]`` of child i and ignores ``a[i] - U[i, j]``. Maximization: the parent's score is
    ``sum_i use[i, j] U[i, j] - ignore[i, j] (a[i] - U[i, j])``, and its activation is the sigmoid of the score; its
    mean and variance are those of the votes, weighted by ``U[i, j] / (sum_k U[k, j] + 1e-5)``, with 1e-5 added to the
    variance.

    Args:
        votes: ``(..., I, J, E)``.
        activations: ``(..., I)`` in [0, 1], the paper's ``f(a)``.
        use: ``(I, J)``, benefit of each unit of data that is used.
        ignore: ``(I, J)``, cost of each unit that is ignored.
        iterations: number of passes, at least 1.

    Returns:
        Poses ``(..., J, E)``, which are the means; activations ``(..., J)`` in [0, 1]; and the couplings
        ``(..., I, J)`` that they were computed with.

    Raises:
        InputError: ``iterations`` is below 1.

    Source: Heinsen 2019, Algorithm 1.
    """
    require_passes(iterations)
    votes = votes.transpose(-3, -2).contiguous()  # (..., J, I, E), so that sums over children are matrix products
    use, ignore, activations = use.T, ignore.T, activations.unsqueeze(-2)

    def parents(couplings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        used = activations * couplings  # (..., J, I)
        scores = (use * used - ignore * (activations - used)).sum(dim=-1)
        weights = (used / (used.sum(dim=-1, keepdim=True) + _EPSILON)).unsqueeze(-2)  # (..., J, 1, I)
        return scores, weights, weights @ votes

    couplings = votes.new_full(votes.shape[:-1], 1 / votes.shape[-3])
    scores, weights, means = parents(couplings)
    for _ in range(iterations - 1):
        squares = _squared_distance(votes, means)
        variances = weights @ squares + _EPSILON  # (..., J, 1, E)
        distances = (squares @ variances.reciprocal().mT).squeeze(-1)
        log_densities = (
            -(distances + variances.log().sum(dim=-1)) / 2
        )  # without a constant, which cancels in the softmax
        couplings = coupling_coefficients(F.logsigmoid(scores).unsqueeze(-1) + log_densities, dim=-2)
        scores, weights, means = parents(couplings)
    return means.squeeze(-2), scores.sigmoid(), couplings.mT


def _squared_distance(votes: Tensor, means: Tensor) -> Tensor:
    """Return ``(votes - means)^2``."""
    if torch.compiler.is_compiling():  # torch 2.11 compiles the backward pass below to wrong gradients
        return (votes - means).square()
    squares: Tensor = _SquaredDistance.apply(votes, means)
    return squares


class _SquaredDistance(torch.autograd.Function):
    """``(votes - means)^2``; for its backward pass, it keeps nothing of the size of the votes but the votes."""

    @staticmethod
    def forward(ctx: Any, votes: Tensor, means: Tensor) -> Tensor:
        """Return ``(..., J, I, E)`` from ``votes (..., J, I, E)`` and ``means (..., J, 1, E)``."""
        ctx.save_for_backward(votes, means)
        return (votes - means).square_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of ``votes`` and ``means``."""
        votes, means = ctx.saved_tensors
        grad = (votes - means).mul_(grad).mul_(2)
        return grad, -grad.sum(dim=-2, keepdim=True)


class HeinsenMatrixRouting(Routing):
    """Routing by how well parents explain the votes, with a benefit for using each child and a cost for ignoring it.

    Poses are the paper's d_cov x d_inp matrices: n x n if ``dim_in = dim_out = n * n``, otherwise one row. Activations
    are the sigmoids of the paper's scores, so that the softmax cross-entropy of their log-odds is the paper's loss, for
    scores of up to 16 in float32.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`; children that share vote matrices also share
            biases, benefits and costs.
        iterations: passes of routing, 3 in the paper; 1 gives uniform couplings.

    Raises:
        InputError: ``iterations`` is below 1.

    Example:
        >>> routing = HeinsenMatrixRouting(64, 16, 10, 16)
        >>> routing(Capsules.from_vectors(torch.rand(2, 64, 16))).poses.shape
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
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        require_passes(iterations)
        self.iterations = iterations
        self.matrix = self.has_matrices("auto")
        rows, columns = (isqrt(dim_in),) * 2 if self.matrix else (dim_out, dim_in)
        count = self.vote_weights
        self.weight = nn.Parameter(torch.randn(count, num_out, rows, columns) / columns)
        self.bias = nn.Parameter(torch.zeros(count, num_out, dim_out))
        self.use, self.ignore = (nn.Parameter(torch.zeros(count, num_out)) for _ in range(2))

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        poses, activations, _ = self._route(capsules)
        return Capsules(poses, activations)

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the couplings of the last pass, which sum to 1 over the parents."""
        return self._route(capsules)[2]

    def _route(self, capsules: Capsules) -> tuple[Tensor, Tensor, Tensor]:
        bias, use, ignore = (for_each_child(p, self.num_in) for p in (self.bias, self.use, self.ignore))
        votes = _votes(capsules.poses, self.weight, bias, self.matrix)
        return heinsen_matrix_routing(votes, capsules.activations, use, ignore, self.iterations)


@full_precision
def _votes(poses: Tensor, weight: Tensor, bias: Tensor, matrix: bool) -> Tensor:
    """Return ``V[i, j] = M[i] W[i, j] + B[i, j]``, in full precision.

    The eight bits of a vote in bfloat16 are too few for the density of a narrow Gaussian.
    """
    return (matrix_vote if matrix else vote)(poses, weight) + bias


def for_each_child(shared: Tensor, num_in: int) -> Tensor:
    """Repeat the rows of a parameter ``(K, *rest)`` as ``(I, *rest)``; child i has row i modulo K."""
    return shared.repeat(num_in // len(shared), *(1 for _ in shared.shape[1:]))
