"""Windows of capsule maps, and what their parents have to say about the child that several of them see."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def windows(maps: Tensor, kernel: int, stride: int, padding: int = 0) -> Tensor:
    """Return the children ``(B, y, x, K * K * A, *rest)`` of each window of maps ``(B, H, W, A, *rest)``."""
    if padding:
        maps = F.pad(maps, (0, 0) * (maps.ndim - 3) + (padding,) * 4)
    cut = maps.unfold(1, kernel, stride).unfold(2, kernel, stride)
    return cut.movedim((-2, -1), (3, 4)).flatten(3, 5)


def matrix_votes(poses: Tensor, weight: Tensor) -> Tensor:
    """Return the votes ``(..., I, J, 16)`` of 4x4 poses ``(..., I, 16)``, weights ``(I, J, 4, 4)``."""
    return torch.einsum("...iab,ijbc->...ijac", poses.unflatten(-1, (4, 4)), weight).flatten(-2)


def add_coordinates(votes: Tensor, side: int) -> Tensor:
    """Add row and column of children on a map of ``side`` places to the right-hand column of their 4x4 votes."""
    places = (torch.arange(side, dtype=votes.dtype, device=votes.device) + 0.5) / side
    offsets = votes.new_zeros(side, side, 16)
    offsets[..., 3], offsets[..., 7] = places[:, None], places
    types = votes.shape[-3] // side**2
    return votes + offsets.flatten(0, 1).repeat_interleave(types, dim=0).unsqueeze(1)


def softmax_over_positions(logits: Tensor, kernel: int, stride: int) -> Tensor:
    """Return the softmax of each child over the J parents of all windows that see it.

    Args:
        logits: ``(B, y, x, K * K * A, J)``.
        kernel, stride: of the windows.
    """
    batch, rows, columns, children, _ = logits.shape
    side = (rows - 1) * stride + kernel
    places = logits.unflatten(3, (kernel * kernel, -1))  # (B, y, x, p, A, J)
    with torch.no_grad():  # the largest logit of each child, which cancels
        largest = logits.new_full((batch, side, side, places.shape[4]), -torch.inf)
        for p in range(kernel * kernel):
            part = tuple(slice(at, at + stride * (rows - 1) + 1, stride) for at in divmod(p, kernel))
            seen = largest[:, part[0], part[1]]
            seen.copy_(torch.maximum(seen, places[:, :, :, p].amax(dim=-1)))
    densities = torch.exp(logits - windows(largest, kernel, stride).unsqueeze(-1))
    sums = densities.sum(dim=-1).unflatten(3, (kernel * kernel, -1))  # (B, y, x, p, A)
    stacked = sums.permute(0, 4, 3, 1, 2).reshape(batch, -1, rows * columns)
    total = F.fold(stacked, (side, side), kernel, stride=stride).movedim(1, -1)
    return densities / windows(total, kernel, stride).unsqueeze(-1).view(batch, rows, columns, children, 1)
