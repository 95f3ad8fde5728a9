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

_BLOCK_OF_VOTES = 16 * 2**20  # numbers: 64 MiB in float32, a bound on memory
_MOST_EXAMPLES = 17  # of a block; the votes of 11 to 17 of the paper's layer lie in the last cache of a server of today
_CACHE_LINE = 16  # numbers: 64 bytes in float32


def block_size(batch: int, votes_of_one: int) -> int:
    """Examples in each block: as few blocks as memory and cache allow, of equal size as far as they can be, and odd.

    A child's votes of a block lie together, ``n * J * E`` numbers, and those of one parent are read child after child.
    At a distance with a high power of two they would fall into a few sets of the cache and drive each other out.

    Args:
        batch: examples, at least 1.
        votes_of_one: numbers in the votes of one example, ``I * J * E``.
    """
    blocks = ceil(batch / min(max(1, _BLOCK_OF_VOTES // votes_of_one), _MOST_EXAMPLES))
    return ceil(batch / blocks) | 1


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
    """Letters as in `capsule_lightning.layers`; ``n`` examples of a block, ``nj`` their parents, ``r`` passes.

    What belongs to passes is laid out ``(n, J, r, ...)``, so that one product reads the votes once for several passes.
    """

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
        inputs = poses.new_empty(batch, num_out, iterations, dim_out)  # s of each pass
        buffer = _buffer_of_votes(poses, weight, block)
        for start in range(0, batch, block):
            s = inputs[start : start + block]
            votes = _votes(children[:, start : start + block], maps, buffer)
            of_parents = _of_parents(votes, dim_out)
            torch.mul(votes.sum(dim=0).view_as(s[:, :, 0]), 1 / (num_out + leaky), out=s[:, :, 0])
            if bias is not None:
                s[:, :, 0] += bias
            agreed = torch.zeros_like(s[:, :, :1])  # V
            for t in range(1, iterations):
                agreed += squash(s[:, :, t - 1 : t])
                couplings = coupling_coefficients(_agreement(agreed, of_parents), leaky, dim=1)  # (n, J, 1, I)
                s[:, :, t : t + 1] = _weighted_sum(couplings, of_parents)
                if bias is not None:
                    s[:, :, t] += bias
        ctx.save_for_backward(poses, weight, inputs)
        ctx.leaky, ctx.detach, ctx.block, ctx.biased = leaky, detach, block, bias is not None
        return squash(inputs[:, :, -1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        poses, weight, inputs = ctx.saved_tensors
        (batch, num_in, _), (_, num_out, dim_out, _) = poses.shape, weight.shape
        iterations = inputs.shape[2]
        first = max(1, iterations - 1 if ctx.detach else 1)  # the earliest pass whose couplings are needed
        children = poses.transpose(0, 1).contiguous()  # (I, B, D)
        maps = weight.flatten(1, 2).transpose(1, 2).contiguous()  # (I, D, J * E)
        grad_children, grad_maps = torch.empty_like(children), torch.zeros_like(maps)
        grad_inputs = torch.zeros_like(inputs)
        all_agreed = squash(inputs[:, :, :-1]).cumsum(dim=2)[:, :, first - 1 :]  # V of the passes from the first on
        buffer = _buffer_of_votes(poses, weight, ctx.block)
        for start in range(0, batch, ctx.block):
            part = slice(start, start + ctx.block)
            s, ds, agreed = inputs[part], grad_inputs[part], all_agreed[part]
            of_parents = _of_parents(_votes(children[:, part], maps, buffer), dim_out)
            couplings = coupling_coefficients(_agreement(agreed, of_parents), ctx.leaky, dim=1)  # (n, J, passes, I)
            dv = torch.zeros_like(s)
            dv[:, :, -1] = grad[part]
            # the gradient of a vote sums over terms a coefficient (of child and parent) times a vector (of the parent)
            coefficients, vectors = [couplings], [ds[:, :, first:]]
            for t in range(iterations - 1, first - 1, -1):
                ds[:, :, t] = squash_gradient(s[:, :, t], dv[:, :, t])
                if ctx.detach:
                    break
                of_pass = couplings[:, :, t - 1 : t]
                gain = of_pass * _agreement(ds[:, :, t : t + 1], of_parents)
                grad_logits = gain - of_pass * gain.sum(dim=1, keepdim=True)
                dv[:, :, :t] += _weighted_sum(grad_logits, of_parents)
                coefficients.append(grad_logits)
                vectors.append(agreed[:, :, t - 1 : t])
            if iterations == 1 or not ctx.detach:
                ds[:, :, 0] = squash_gradient(s[:, :, 0], dv[:, :, 0])
                coefficients.append(couplings.new_full((*s.shape[:2], 1, num_in), 1 / (num_out + ctx.leaky)))
                vectors.append(ds[:, :, :1])
            grad_votes = _spread(buffer, num_in, len(s), num_out * dim_out)
            torch.bmm(
                torch.cat(coefficients, dim=2).flatten(0, 1).transpose(1, 2),  # (nj, I, terms)
                torch.cat(vectors, dim=2).flatten(0, 1),  # (nj, terms, E)
                out=_of_parents(grad_votes, dim_out),
            )
            grad_children[:, part] = torch.bmm(grad_votes, maps.transpose(1, 2))
            grad_maps.baddbmm_(children[:, part].transpose(1, 2), grad_votes)
        grad_weight = grad_maps.transpose(1, 2).reshape(weight.shape)
        grad_bias = grad_inputs.sum(dim=(0, 2)) if ctx.biased else None
        return grad_children.transpose(0, 1), grad_weight, grad_bias, None, None, None, None


def _buffer_of_votes(poses: Tensor, weight: Tensor, block: int) -> Tensor:
    """Memory of one block's votes, or of their gradients; one for all blocks, so that it stays in the cache."""
    num_in, num_out, dim_out, _ = weight.shape
    return poses.new_empty(num_in * (block * num_out * dim_out + 2 * _CACHE_LINE))


def _votes(children: Tensor, maps: Tensor, buffer: Tensor) -> Tensor:
    """Votes ``(I, n, J * E)`` of children ``(I, n, D)``, in the buffer, without gaps: the product is slow otherwise."""
    votes = buffer[: children[..., 0].numel() * maps.shape[2]].view(*children.shape[:2], -1)
    return torch.bmm(children, maps, out=votes)


def _spread(buffer: Tensor, num_in: int, examples: int, votes_of_child: int) -> Tensor:
    """A place ``(I, n, J * E)`` in the buffer whose children are an odd number of cache lines apart.

    For the reason that `block_size` gives. No product here asks for memory without gaps, so the distance is free; to
    write the gradient of the votes parent by parent then takes little more than half the time.
    """
    lines = ceil(examples * votes_of_child / _CACHE_LINE)
    row = _CACHE_LINE * (lines + 1 - lines % 2)
    return buffer.as_strided((num_in, examples, votes_of_child), (row, votes_of_child, 1))


def _of_parents(votes: Tensor, dim_out: int) -> Tensor:
    """Votes ``(I, n, J * E)`` seen parent by parent, ``(n * J, I, E)``."""
    return votes.view(*votes.shape[:2], -1, dim_out).flatten(1, 2).transpose(0, 1)


def _agreement(vectors: Tensor, of_parents: Tensor) -> Tensor:
    """Each vote times the vectors ``(n, J, T, E)`` of its parent, ``(n, J, T, I)``."""
    return torch.bmm(vectors.flatten(0, 1), of_parents.transpose(1, 2)).view(*vectors.shape[:3], of_parents.shape[1])


def _weighted_sum(coefficients: Tensor, of_parents: Tensor) -> Tensor:
    """Sum over the children of ``coefficients (n, J, T, I)`` times their votes, ``(n, J, T, E)``."""
    return torch.bmm(coefficients.flatten(0, 1), of_parents).view(*coefficients.shape[:3], of_parents.shape[2])
