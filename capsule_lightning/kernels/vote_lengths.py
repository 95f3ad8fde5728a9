"""How long votes are, without keeping a single one.

The length of the vote ``W u`` is ``sqrt(u . G u)`` with ``G = W^T W``. Votes are formed for some children at a time,
which fit into the cache; the backward pass needs none: the gradient of the pose is ``h G u`` and that of the matrix ``W
(h u u^T)``, with h the gradient of the length divided by the length.

Index letters are those of `capsule_lightning.layers`; also ``n`` children of a block, and ``k`` matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

BLOCK = 2**18
"""Numbers in the votes of a block: 1 MiB in float32."""


class _VoteLengths(torch.autograd.Function):
    """Of children ``(K, N, D)`` with matrices ``(K, J, E, D)``: ``(K, N, J)``."""

    @staticmethod
    @override
    def forward(ctx: Any, children: Tensor, weight: Tensor) -> Tensor:
        count, num_out, dim_out, dim = weight.shape
        matrices = weight.reshape(count, num_out * dim_out, dim).transpose(1, 2)
        total = torch.eye(num_out, dtype=weight.dtype, device=weight.device).repeat_interleave(dim_out, dim=0)
        size = max(1, BLOCK // (count * num_out * dim_out))
        parts = [(part @ matrices).square_() @ total for part in torch.split(children, size, dim=1)]
        lengths = torch.cat(parts, dim=1).sqrt_()
        ctx.save_for_backward(children, weight, lengths)
        return lengths

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        children, weight, lengths = ctx.saved_tensors
        count, num_out, _, dim = weight.shape
        factors = torch.where(lengths > 0, gradient / lengths, 0)  # h
        squares = (weight.transpose(-1, -2) @ weight).reshape(count, num_out * dim, dim)  # G, which is symmetric
        of_children, moments = torch.empty_like(children), torch.zeros_like(squares)
        size = max(1, BLOCK // (count * num_out * dim))
        for start in range(0, children.shape[1], size):
            part = slice(start, start + size)
            here = children[:, part]
            weighed = (factors[:, part].unsqueeze(-1) * here.unsqueeze(-2)).flatten(2)  # (K, n, J D)
            of_children[:, part] = weighed @ squares
            moments += weighed.transpose(1, 2) @ here
        return of_children, weight @ moments.view(count, num_out, dim, dim)


def vote_lengths(poses: Tensor, weight: Tensor) -> Tensor:
    """Return the lengths of `vote`; their gradients can be taken once.

    Args:
        poses: ``(B, I, D)``, of the children.
        weight: ``(K, J, E, D)``; child i uses the matrices of row i modulo K.

    Returns:
        ``(B, I, J)``; gradients of a vote of length 0 are 0.
    """
    batch, children, dim = poses.shape
    count = len(weight)
    rows = poses.reshape(-1, count, dim).transpose(0, 1)  # (K, B P, D)
    lengths: Tensor = _VoteLengths.apply(rows, weight)
    return lengths.transpose(0, 1).reshape(batch, children, weight.shape[1])
