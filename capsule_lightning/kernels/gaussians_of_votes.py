"""Gaussians that are fitted to the votes for each parent, some parents at a time on the CPU.

EM and variational-Bayes routing have this in common. Written with plain autograd, each pass keeps several tensors of
the size of the votes; here nothing of that size is kept but the votes, and on the CPU nothing else of it formed whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK_OF_VOTES = 2**20  # numbers: 4 MiB in float32


def gaussians_of_votes(
    votes: Tensor, weights: Tensor, scale: Tensor, offset: Tensor, least: float, pull: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of the votes for each parent, their scatter around it, and how far each vote is by that measure.

    The differences themselves are squared, because the sum of squares minus the square of the sum would cancel if votes
    agree. The backward pass forms again what it needs. The result can be differentiated once.

    Args:
        votes: ``(..., J, I, E)``, parents first.
        weights: ``(..., J, I)``, at least 0.
        scale: ``(..., J)``, above 0, by which the weighted sum of the votes is multiplied.
        offset: ``(..., J, E)``, added to it.
        least: scatter before any vote is counted, above 0.
        pull: scatter for each unit of the mean's square, at least 0.

    Returns:
        ``means (..., J, E) = scale sum_i weights votes + offset``,
        ``scatter (..., J, E) = least + pull means^2 + sum_i weights (votes - means)^2``, and
        ``distances (..., J, I) = sum_e (votes - means)^2 / scatter``.
    """
    rows = weights.flatten(0, -2).unsqueeze(1), scale.reshape(-1, 1, 1), offset.flatten(0, -2).unsqueeze(1)
    means, scatter, distances = _GaussiansOfVotes.apply(votes.flatten(0, -3), *rows, least, pull)
    return means.view(offset.shape), scatter.view(offset.shape), distances.view(weights.shape)


class _GaussiansOfVotes(torch.autograd.Function):
    """The autograd function of `gaussians_of_votes`.

    Shapes are ``votes (N, I, E)``, ``weights (N, 1, I)``, ``scale (N, 1, 1)``, ``offset (N, 1, E)``.
    """

    @staticmethod
    def forward(
        ctx: Any, votes: Tensor, weights: Tensor, scale: Tensor, offset: Tensor, least: float, pull: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        means, scatter = offset.new_empty(offset.shape), offset.new_empty(offset.shape)
        distances = weights.new_empty(weights.shape)
        for v, w, a, b, m, s, d in _blocks(votes, weights, scale, offset, means, scatter, distances):
            torch.baddbmm(b, a * w, v, out=m)
            squares = (v - m).square_()
            torch.baddbmm(least + pull * m.square(), w, squares, out=s)
            torch.bmm(s.reciprocal(), squares.transpose(1, 2), out=d)
        ctx.save_for_backward(votes, weights, scale, offset, means, scatter)
        ctx.pull = pull
        return means, scatter, distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_means: Tensor, of_scatter: Tensor, of_distances: Tensor) -> tuple[Tensor | None, ...]:
        gradients = tuple(part.new_empty(part.shape) for part in ctx.saved_tensors[:4])
        given = *ctx.saved_tensors, of_means, of_scatter, of_distances, *gradients
        for v, w, a, b, m, s, dm, ds, dd, dv, dw, da, db in _blocks(*given):
            differences = v - m
            squares = differences.square()
            precision = s.reciprocal()
            low = ds - precision.square() * torch.bmm(dd, squares)  # all that the scatter gets
            # the gradient of a square is w[i] low[e] + dd[i] precision[e]
            of_votes = torch.cat([w, dd], dim=1)  # (n, 2, I)
            of_parents = 2 * torch.cat([low, precision], dim=1)  # (n, 2, E)
            through_means = (of_parents * torch.bmm(of_votes, differences)).sum(dim=1, keepdim=True)
            torch.add(dm, 2 * ctx.pull * m * low - through_means, out=db)
            of_sum = a * db  # of the weighted sum of the votes
            torch.sum(db * (m - b), dim=2, keepdim=True, out=da)
            da.div_(a)
            torch.bmm(low, squares.transpose(1, 2), out=dw)
            dw.baddbmm_(of_sum, v.transpose(1, 2))
            torch.mul(differences, torch.bmm(of_votes.transpose(1, 2), of_parents), out=dv)
            dv.addcmul_(w.transpose(1, 2), of_sum)
        return *gradients, None, None


def _blocks(votes: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors ``(N, ...)`` into blocks of rows on the CPU, so that what each block needs stays in the cache."""
    rows = max(1, len(votes))
    if votes.device.type == "cpu" and not torch.compiler.is_compiling():
        rows = max(1, _BLOCK_OF_VOTES // votes.shape[1:].numel())
    return zip(*(torch.split(part, rows) for part in (votes, *others)), strict=True)
