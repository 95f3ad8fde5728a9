"""Attention over votes on the CPU, one block of the batch at a time; see `blocks_of_votes`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsule_lightning.kernels.blocks_of_votes import Votes, agreement, weighted_sum
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.votes import own_vote_weight

AttentionBackend = Literal["auto", "torch", "blocked"]


@full_precision
def blocked_attention(
    poses: Tensor,
    weight: Tensor,
    queries: Tensor | None = None,
    prior: Tensor | None = None,
    scale: float = 1.0,
    block: int | None = None,
) -> Tensor:
    """Return ``s[j] = sum_i (c[i, j] + prior[i, j]) v[i, j]`` without keeping the votes v.

    ``c`` is the softmax over the parents of ``scale * v[i, j] . q[j]``. This is what self-attention routing and a round
    of inverted dot-product attention have in common. It can be differentiated once.

    Args:
        poses: ``(..., I, D)``, poses of the children.
        weight: ``(K, J, E, D)`` of `vote`, which forms the votes v.
        queries: ``(..., J, E)``, q, what the votes for each parent should agree with; None for the sum of these votes.
        prior: ``(I, J)``, added to the couplings.
        scale: factor on the agreements.
        block: examples at a time; None for as many as the cache holds.

    Returns:
        ``(..., J, E)``.
    """
    *leading, num_in, dim_in = poses.shape
    parents = *leading, *weight.shape[1:3]
    weight = own_vote_weight(weight, num_in)
    queries = None if queries is None else queries.expand(parents).reshape(-1, *parents[-2:])
    sums: Tensor = _BlockedAttention.apply(poses.reshape(-1, num_in, dim_in), weight, queries, prior, scale, block)
    return sums.view(parents)


class _BlockedAttention(torch.autograd.Function):
    """The autograd function of `blocked_attention`; index letters as in `blocks_of_votes`."""

    @staticmethod
    def forward(
        ctx: Any,
        poses: Tensor,
        weight: Tensor,
        queries: Tensor | None,
        prior: Tensor | None,
        scale: float,
        block_size: int | None,
    ) -> Tensor:
        votes = Votes(poses, weight, block_size)
        sums = poses.new_empty(votes.batch, votes.num_out, 1, votes.dim_out)
        asked = torch.empty_like(sums) if queries is None else queries.unsqueeze(2)  # q
        for block in votes.blocks():
            of_block = asked[block.part]
            if queries is None:
                torch.sum(block.votes, dim=0, out=of_block.view(len(of_block), -1))
            couplings = coupling_coefficients(agreement(scale * of_block, block), dim=1)  # (n, J, 1, I)
            sums[block.part] = weighted_sum(add_prior(couplings, prior), block)
        ctx.save_for_backward(poses, weight, asked, prior)
        ctx.among_themselves, ctx.scale, ctx.block_size = queries is None, scale, block_size
        return sums.squeeze(2)

    @staticmethod
    @once_differentiable
    @full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        poses, weight, asked, prior = ctx.saved_tensors
        votes = Votes(poses, weight, ctx.block_size)
        gradients, grad_asked = votes.backward(), torch.empty_like(asked)
        grad_prior = None if prior is None else torch.zeros_like(prior)
        for block in votes.blocks():
            grad_sums, of_block = grad[block.part].unsqueeze(2), ctx.scale * asked[block.part]  # (n, J, 1, E)
            gains, logits = agreement(torch.cat([grad_sums, of_block], dim=2), block).chunk(2, dim=2)  # (n, J, 1, I)
            couplings = coupling_coefficients(logits, dim=1)
            gain = couplings * gains
            grad_logits = gain - couplings * gain.sum(dim=1, keepdim=True)
            grad_of_block = grad_asked[block.part]
            torch.mul(weighted_sum(grad_logits, block), ctx.scale, out=grad_of_block)
            if grad_prior is not None:
                grad_prior += gains.sum(dim=(0, 2)).T
            coefficients, vectors = [add_prior(couplings, prior), grad_logits], [grad_sums, of_block]
            if ctx.among_themselves:
                coefficients.append(torch.ones_like(grad_logits))
                vectors.append(grad_of_block)
            gradients.add(block, torch.cat(coefficients, dim=2), torch.cat(vectors, dim=2))
        grad_queries = None if ctx.among_themselves else grad_asked.squeeze(2)
        return *gradients.gradients(), grad_queries, grad_prior, None, None


def add_prior(couplings: Tensor, prior: Tensor | None) -> Tensor:
    """Return couplings ``(n, J, 1, I)`` plus the prior ``(I, J)``, if there is one."""
    return couplings if prior is None else couplings + prior.T.unsqueeze(1)
