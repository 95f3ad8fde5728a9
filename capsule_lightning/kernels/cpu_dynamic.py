"""Dynamic routing on the CPU, one block of the batch at a time; see `blocks_of_votes`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsule_lightning.kernels.blocks_of_votes import Votes, agreement, weighted_sum
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash, squash_gradient


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
    """Compute `dynamic_routing` of `vote` in one go: votes, couplings and parents of ``block`` examples at a time.

    The result can be differentiated once.

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
    parents: Tensor = _BlockedDynamicRouting.apply(poses, weight, bias, iterations, leaky, detach, block)
    return parents


class _BlockedDynamicRouting(torch.autograd.Function):
    """The autograd function of `blocked_dynamic_routing`.

    Tensors of the ``r`` passes are laid out ``(n, J, r, ...)``, so that one product can take several passes at once.
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
        block_size: int | None,
    ) -> Tensor:
        votes = Votes(poses, weight, block_size)
        inputs = poses.new_empty(votes.batch, votes.num_out, iterations, votes.dim_out)  # s of each pass
        for block in votes.blocks():
            s = inputs[block.part]
            torch.mul(block.votes.sum(dim=0).view_as(s[:, :, 0]), 1 / (votes.num_out + leaky), out=s[:, :, 0])
            if bias is not None:
                s[:, :, 0] += bias
            agreed = torch.zeros_like(s[:, :, :1])  # V
            for t in range(1, iterations):
                agreed += squash(s[:, :, t - 1 : t])
                couplings = coupling_coefficients(agreement(agreed, block), leaky, dim=1)  # (n, J, 1, I)
                s[:, :, t : t + 1] = weighted_sum(couplings, block)
                if bias is not None:
                    s[:, :, t] += bias
        ctx.save_for_backward(poses, weight, inputs)
        ctx.leaky, ctx.detach, ctx.block_size, ctx.biased = leaky, detach, block_size, bias is not None
        return squash(inputs[:, :, -1])

    @staticmethod
    @once_differentiable
    @full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        poses, weight, inputs = ctx.saved_tensors
        votes = Votes(poses, weight, ctx.block_size)
        iterations = inputs.shape[2]
        first = max(1, iterations - 1 if ctx.detach else 1)  # the earliest pass whose couplings are needed
        all_agreed = squash(inputs[:, :, :-1]).cumsum(dim=2)[:, :, first - 1 :]  # V of the passes from the first on
        grad_inputs, gradients = torch.zeros_like(inputs), votes.backward()
        for block in votes.blocks():
            s, ds, agreed = inputs[block.part], grad_inputs[block.part], all_agreed[block.part]
            couplings = coupling_coefficients(agreement(agreed, block), ctx.leaky, dim=1)  # (n, J, passes, I)
            dv = torch.zeros_like(s)
            dv[:, :, -1] = grad[block.part]
            coefficients, vectors = [couplings], [ds[:, :, first:]]
            for t in range(iterations - 1, first - 1, -1):
                ds[:, :, t] = squash_gradient(s[:, :, t], dv[:, :, t])
                if ctx.detach:
                    break
                of_pass = couplings[:, :, t - 1 : t]
                gain = of_pass * agreement(ds[:, :, t : t + 1], block)
                grad_logits = gain - of_pass * gain.sum(dim=1, keepdim=True)
                dv[:, :, :t] += weighted_sum(grad_logits, block)
                coefficients.append(grad_logits)
                vectors.append(agreed[:, :, t - 1 : t])
            if iterations == 1 or not ctx.detach:
                ds[:, :, 0] = squash_gradient(s[:, :, 0], dv[:, :, 0])
                shape = *s.shape[:2], 1, votes.num_in
                coefficients.append(couplings.new_full(shape, 1 / (votes.num_out + ctx.leaky)))
                vectors.append(ds[:, :, :1])
            gradients.add(block, torch.cat(coefficients, dim=2), torch.cat(vectors, dim=2))
        grad_bias = grad_inputs.sum(dim=(0, 2)) if ctx.biased else None
        return *gradients.gradients(), grad_bias, None, None, None, None
