"""Attention over votes on the CPU, a block of the batch at a time; see `blocks_of_votes`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsule_lightning.kernels.blocks_of_votes import Votes, agreement, blocks_suit, weighted_sum
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.votes import own_vote_weight

Backend = Literal["auto", "torch", "blocked"]
"""``torch``, the plain functions; ``blocked``; ``auto``, ``blocked`` where it pays."""

_PAYS_FROM = 2**20  # numbers of the votes: below, they stay in the cache anyhow


def in_blocks(backend: str, poses: Tensor, weight: Tensor) -> bool:
    """Whether a layer with this ``backend`` forms its votes in blocks; on its own only float32 ones, on a CPU."""
    if backend != "auto":
        return backend == "blocked"
    _, num_out, dim_out, _ = weight.shape
    return blocks_suit(poses, weight) and poses[..., 0].numel() * num_out * dim_out >= _PAYS_FROM


@full_precision
def blocked_attention(
    poses: Tensor, weight: Tensor, queries: Tensor, prior: Tensor | None = None, block: int | None = None
) -> Tensor:
    """``s[j] = sum_i (c[i, j] + prior[i, j]) u_hat[i, j]``, ``c`` the softmax over parents of ``u_hat[i, j] . q[j]``.

    What self-attention routing and a round of inverted dot-product attention have in common. Differentiable once.

    Args:
        poses: ``(..., I, D)``, poses of the children.
        weight: ``(K, J, E, D)`` of `vote`, in the dtype of ``poses``.
        queries: ``(..., J, E)``, what the votes for each parent should agree with.
        prior: ``(I, J)``, added to the couplings.
        block: examples at a time; None for as many as the cache holds.

    Returns:
        ``(..., J, E)``.
    """
    batch = poses.reshape(-1, *poses.shape[-2:])
    weight = own_vote_weight(weight, poses.shape[-2])
    sums: Tensor = _BlockedAttention.apply(batch, weight, queries.reshape(-1, *queries.shape[-2:]), prior, block)
    return sums.view(queries.shape)


class _BlockedAttention(torch.autograd.Function):
    """Letters as in `capsule_lightning.layers`; ``n`` examples of a block."""

    @staticmethod
    def forward(
        ctx: Any, poses: Tensor, weight: Tensor, queries: Tensor, prior: Tensor | None, block_size: int | None
    ) -> Tensor:
        votes = Votes(poses, weight, block_size)
        sums = torch.empty_like(queries)
        for block in votes.blocks():
            couplings = coupling_coefficients(agreement(queries[block.part].unsqueeze(2), block), dim=1)  # (n, J, 1, I)
            sums[block.part] = weighted_sum(_with(prior, couplings), block).squeeze(2)
        ctx.save_for_backward(poses, weight, queries, prior)
        ctx.block_size = block_size
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        poses, weight, queries, prior = ctx.saved_tensors
        votes = Votes(poses, weight, ctx.block_size)
        gradients, grad_queries = votes.backward(), torch.empty_like(queries)
        grad_prior = None if prior is None else torch.zeros_like(prior)
        for block in votes.blocks():
            vectors = torch.stack([grad[block.part], queries[block.part]], dim=2)  # (n, J, 2, E)
            both = agreement(vectors, block)
            of_sums, logits = both[:, :, :1], both[:, :, 1:]  # (n, J, 1, I)
            couplings = coupling_coefficients(logits, dim=1)
            gain = couplings * of_sums
            grad_logits = gain - couplings * gain.sum(dim=1, keepdim=True)
            grad_queries[block.part] = weighted_sum(grad_logits, block).squeeze(2)
            if grad_prior is not None:
                grad_prior += of_sums.sum(dim=(0, 2)).T
            gradients.add(block, torch.cat([_with(prior, couplings), grad_logits], dim=2), vectors)
        return *gradients.gradients(), grad_queries, grad_prior, None


def _with(prior: Tensor | None, couplings: Tensor) -> Tensor:
    """Couplings ``(n, J, 1, I)`` and what is added to them."""
    return couplings if prior is None else couplings + prior.T.unsqueeze(1)
