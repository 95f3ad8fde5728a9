"""Dynamic routing on the CPU, a block of the batch at a time, so that the votes stay in the cache.

Written with plain autograd, routing streams the votes ``(B, I, J, E)`` through memory about twenty times a step and
keeps several tensors of that size. Examples do not see each other, so here the votes of a few examples are formed, used
by every pass, and forgotten; the backward pass forms them again. Nothing of their size is kept.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash, squash_gradient

_BLOCK_OF_VOTES = 3 * 2**20  # numbers: 12 MiB in float32, which the last cache of a server of today holds
_MOST_EXAMPLES = 16  # of a block; with more, 288 children and fewer were slower, and more children no faster


def block_size(batch: int, votes_of_one: int) -> int:
    """Examples in each block: as few blocks as the cache allows, of equal size as far as they can be.

    Args:
        batch: examples, at least 1.
        votes_of_one: numbers in the votes of one example, ``I * J * E``.
    """
    blocks = ceil(batch / min(max(1, _BLOCK_OF_VOTES // votes_of_one), _MOST_EXAMPLES))
    return ceil(batch / blocks)


@full_precision
def blocked_dynamic_routing(
    poses: Tensor,
    weight: Tensor,
    iterations: int = 3,
    bias: Tensor | None = None,
    leaky: bool = False,
    detach: bool = False,
    block: int | None = None,
) -> Tensor:
    """`dynamic_routing` of `vote`, fused: votes, couplings and parents of ``block`` examples at a time.

    Differentiable once.

    Args:
        poses: ``(B, I, D)``, poses of the children.
        weight: ``(I, J, E, D)``, in the dtype of ``poses``.
        iterations, bias, leaky, detach: see `capsule_lightning.routing.dynamic.dynamic_routing`.
        block: examples at a time; None for as many as the cache holds.

    Returns:
        Poses of the parents ``(B, J, E)``.

    Source: Sabour et al. 2017 (arXiv 1710.09829), Procedure 1. Since ``b_t = sum_{s<t} u_hat . v_s``, the logits of
    pass t are the votes times ``V_t = sum_{s<t} v_s``, and no logits are carried from pass to pass.
    """
    block = block or block_size(max(1, len(poses)), weight[..., 0].numel())
    parents: Tensor = _BlockedDynamicRouting.apply(poses, weight, bias, iterations, leaky, detach, block)
    return parents


class _BlockedDynamicRouting(torch.autograd.Function):
    """Letters as in `capsule_lightning.layers`; ``n`` examples of a block, ``nj`` their parents."""

    @staticmethod
    def forward(
        ctx: Any,
        poses: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        iterations: int,
        leaky: bool,
        detach: bool,
        block: int,
    ) -> Tensor:
        (batch, _, _), (_, num_out, dim_out, _) = poses.shape, weight.shape
        children = poses.transpose(0, 1).contiguous()  # (I, B, D)
        maps = weight.flatten(1, 2).transpose(1, 2)  # (I, D, J * E)
        inputs = poses.new_empty(iterations, batch, num_out, dim_out)  # s of each pass
        buffer = poses.new_empty(len(children), block, num_out * dim_out)  # one for all blocks: it stays in the cache
        uniform = 1 / (num_out + leaky)
        for start in range(0, batch, block):
            s = inputs[:, start : start + block]
            votes = buffer[:, : s.shape[1]]  # (I, n, J * E)
            torch.bmm(children[:, start : start + block], maps, out=votes)
            of_parents = _of_parents(votes, dim_out)
            torch.mul(votes.sum(dim=0).view(s[0].shape), uniform, out=s[0])
            if bias is not None:
                s[0] += bias
            agreed = torch.zeros_like(s[0])  # V
            for t in range(1, iterations):
                agreed += squash(s[t - 1])
                couplings = coupling_coefficients(_agreement(agreed, of_parents), leaky, dim=1)  # (n, J, I)
                s[t] = _weighted_sum(couplings, of_parents)
                if bias is not None:
                    s[t] += bias
        ctx.save_for_backward(poses, weight, inputs)
        ctx.leaky, ctx.detach, ctx.block, ctx.biased = leaky, detach, block, bias is not None
        return squash(inputs[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        poses, weight, inputs = ctx.saved_tensors
        (batch, num_in, _), (_, num_out, dim_out, _) = poses.shape, weight.shape
        iterations, first = len(inputs), len(inputs) - 1 if ctx.detach else 0  # the earliest pass that has a gradient
        children = poses.transpose(0, 1).contiguous()  # (I, B, D)
        maps = weight.flatten(1, 2).transpose(1, 2).contiguous()  # (I, D, J * E)
        grad_children, grad_maps = torch.empty_like(children), torch.zeros_like(maps)
        grad_inputs = torch.zeros_like(inputs)
        buffer, grad_buffer = poses.new_empty(2, num_in, ctx.block, num_out * dim_out)
        for start in range(0, batch, ctx.block):
            part = slice(start, start + ctx.block)
            s, ds = inputs[:, part], grad_inputs[:, part]
            votes, grad_votes = buffer[:, : s.shape[1]], grad_buffer[:, : s.shape[1]]  # (I, n, J * E)
            torch.bmm(children[:, part], maps, out=votes)
            of_parents = _of_parents(votes, dim_out)
            agreed = squash(s[:-1]).cumsum(dim=0)  # V of passes 1 to r - 1
            dv = torch.zeros_like(s)
            dv[-1] = grad[part]
            # the gradient of a vote is a sum over passes of coefficient (of child and parent) times vector (of parent)
            coefficients, vectors = [], []
            for t in range(iterations - 1, max(first, 1) - 1, -1):
                ds[t] = squash_gradient(s[t], dv[t])
                couplings = coupling_coefficients(_agreement(agreed[t - 1], of_parents), ctx.leaky, dim=1)
                coefficients.append(couplings)
                vectors.append(ds[t])
                if ctx.detach:
                    break
                gain = couplings * _agreement(ds[t], of_parents)
                grad_logits = gain - couplings * gain.sum(dim=1, keepdim=True)
                dv[:t] += _weighted_sum(grad_logits, of_parents)
                coefficients.append(grad_logits)
                vectors.append(agreed[t - 1])
            if first == 0:
                ds[0] = squash_gradient(s[0], dv[0])
                coefficients.append(poses.new_full((len(ds[0]), num_out, num_in), 1 / (num_out + ctx.leaky)))
                vectors.append(ds[0])
            torch.bmm(
                torch.stack(coefficients, dim=-2).flatten(0, 1).transpose(1, 2),  # (nj, I, terms)
                torch.stack(vectors, dim=-2).flatten(0, 1),  # (nj, terms, E)
                out=_of_parents(grad_votes, dim_out),
            )
            grad_children[:, part] = torch.bmm(grad_votes, maps.transpose(1, 2))
            grad_maps.baddbmm_(children[:, part].transpose(1, 2), grad_votes)
        grad_weight = grad_maps.transpose(1, 2).reshape(weight.shape)
        grad_bias = grad_inputs.sum(dim=(0, 1)) if ctx.biased else None
        return grad_children.transpose(0, 1), grad_weight, grad_bias, None, None, None, None


def _of_parents(votes: Tensor, dim_out: int) -> Tensor:
    """Votes ``(I, n, J * E)`` seen parent by parent, ``(n * J, I, E)``."""
    return votes.view(len(votes), -1, dim_out).transpose(0, 1)


def _agreement(vectors: Tensor, of_parents: Tensor) -> Tensor:
    """Each vote times the vector ``(n, J, E)`` of its parent, ``(n, J, I)``."""
    return torch.bmm(vectors.flatten(0, 1).unsqueeze(1), of_parents.transpose(1, 2)).view(*vectors.shape[:2], -1)


def _weighted_sum(coefficients: Tensor, of_parents: Tensor) -> Tensor:
    """Sum over the children of ``coefficients (n, J, I)`` times their votes, ``(n, J, E)``."""
    return torch.bmm(coefficients.flatten(0, 1).unsqueeze(1), of_parents).view(*coefficients.shape[:2], -1)
