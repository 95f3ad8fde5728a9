"""Convolution with a large kernel in bfloat16 on the CPU, as matrix products over columns.

On some processors the library's convolutions leave much of the bfloat16 units idle: for the primary capsules of Sabour
et al. 2017 (9x9, stride 2, 256 to 256 channels) they take up to four times as long as matrix products with the same
arithmetic. Here the pixels under the kernel are laid out as the rows of a matrix, one block of the batch at a time,
with the channels innermost, so that laying them out and the reverse both move long runs of numbers.
"""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_BLOCK_OF_COLUMNS = 2**24  # numbers: 32 MiB in bfloat16
_LARGE_KERNEL = 49  # places; with fewer, the library's own convolution is as fast


def conv2d(maps: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> Tensor:
    """Convolve without padding, as `torch.nn.functional.conv2d` does, but by columns if that is faster.

    Args:
        maps: ``(B, C, H, W)``.
        weight: ``(O, C, K, L)``.
        bias: ``(O)``.
        stride: stride along rows and columns.

    Returns:
        ``(B, O, rows, columns)``, in the precision that autocast asks for.
    """
    if not columns_pay(maps, weight):
        return F.conv2d(maps, weight, bias, stride)
    with torch.autocast("cpu", enabled=False):
        return columns_conv2d(maps.bfloat16(), weight, bias, stride)


def columns_pay(maps: Tensor, weight: Tensor) -> bool:
    """Return whether `conv2d` goes by columns, for which channels of ``maps`` should be innermost (`channels_last`)."""
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    large = weight[0, 0].numel() >= _LARGE_KERNEL and weight.shape[1] > 1
    return maps.device.type == "cpu" and half and large and not torch.compiler.is_compiling()


def columns_conv2d(
    maps: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], block: int | None = None
) -> Tensor:
    """Convolve without padding by matrix products over columns, ``block`` images at a time; differentiable once.

    The dtype is that of ``maps``; the gradients that a pixel gets from several places of the kernel are added up in it
    too. The backward pass goes by rows of the kernel, so that no products of blocks have to be added up.

    Args:
        maps, weight, bias, stride: see `conv2d`.
        block: images at a time in the forward pass; None for as many as 32 MiB of columns hold.
    """
    if block is None:
        places = prod((n - k) // s + 1 for n, k, s in zip(maps.shape[2:], weight.shape[2:], stride, strict=True))
        most = max(1, _BLOCK_OF_COLUMNS // (places * weight[0].numel()))
        block = max(1, ceil(len(maps) / max(1, ceil(len(maps) / most))))
    out: Tensor = _ColumnsConv2d.apply(maps, weight, bias, stride, block)
    return out


class _ColumnsConv2d(torch.autograd.Function):
    """The autograd function of `columns_conv2d`.

    Pixels are ``(B, H, W, C)`` throughout; a row of columns, and of the matrix of weights, holds ``(K, L, C)``.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], block: int
    ) -> Tensor:
        windows = _windows(maps, weight.shape, stride)
        matrix = _as_matrix(weight.to(maps.dtype))
        out = maps.new_empty(*windows.shape[:3], len(weight))
        room = maps.new_empty(min(block, len(maps)), *windows.shape[1:])  # reused: it stays in the cache and mapped
        for start in range(0, len(maps), block):
            part = windows[start : start + block]
            columns = room[: len(part)].copy_(part)
            torch.mm(columns.view(-1, len(matrix)), matrix, out=out[start : start + block].view(-1, len(weight)))
        if bias is not None:
            out += bias
        ctx.save_for_backward(maps, matrix)
        ctx.shape, ctx.stride, ctx.weight_dtype = weight.shape, stride, weight.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, matrix = ctx.saved_tensors
        grad = grad.permute(0, 2, 3, 1).contiguous()  # (B, rows, columns, O)
        matrix = matrix.view(ctx.shape[2], -1, ctx.shape[0])  # (K, L * C, O)
        grad_maps = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_maps = _grad_maps(grad, maps.shape, matrix, ctx.shape, ctx.stride)
        if ctx.needs_input_grad[1]:
            grad_matrix = torch.empty_like(matrix)
            windows = _windows(maps, ctx.shape, ctx.stride)
            room = maps.new_empty(windows[:, :, :, 0].shape)
            for y, of_row in enumerate(grad_matrix):
                columns = room.copy_(windows[:, :, :, y]).view(-1, len(of_row))
                torch.mm(columns.t(), grad.view(-1, ctx.shape[0]), out=of_row)
            grad_weight = _as_weight(grad_matrix, ctx.shape).to(ctx.weight_dtype)
        if ctx.bias_dtype is not None:
            grad_bias = grad.sum(dim=(0, 1, 2), dtype=ctx.bias_dtype)
        return grad_maps, grad_weight, grad_bias, None, None


def _windows(maps: Tensor, shape: torch.Size, stride: tuple[int, int]) -> Tensor:
    """Return the pixels under the kernel at each position, ``(B, rows, columns, K, L, C)``, as a view if possible."""
    pixels = maps.permute(0, 2, 3, 1).contiguous()
    return pixels.unfold(1, shape[2], stride[0]).unfold(2, shape[3], stride[1]).permute(0, 1, 2, 4, 5, 3)


# Weights become a matrix, and a matrix weights, by a plain transposition and by moving long runs of numbers: copying
# between the two orders directly takes a CPU three times as long.


def _as_matrix(weight: Tensor) -> Tensor:
    """Return weights ``(O, C, K, L)`` as a matrix ``(K * L * C, O)``."""
    out, channels, height, width = weight.shape
    turned = weight.reshape(out, -1).t().contiguous().view(channels, height * width, out)
    return turned.transpose(0, 1).reshape(-1, out)


def _as_weight(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Return ``(O, C, K, L)`` weights from ``(K * L * C, O)`` numbers in any shape, the reverse of `_as_matrix`."""
    out, channels, height, width = shape
    turned = matrix.view(height * width, channels, out).transpose(0, 1).reshape(-1, out)
    return turned.t().contiguous().view(shape)


def _grad_maps(grad: Tensor, maps: torch.Size, matrix: Tensor, shape: torch.Size, stride: tuple[int, int]) -> Tensor:
    """Add up the gradients of the columns by rows of the kernel: along the rows of the image, then across them."""
    batch, rows, columns, out = grad.shape
    _, channels, height, width = shape
    pixels = grad.new_zeros(batch, *maps[2:], channels)
    room = grad.new_empty(batch, rows, columns, width, channels)
    lines = grad.new_empty(batch, rows, maps[3], channels)
    for y in range(height):
        torch.mm(grad.view(-1, out), matrix[y].t(), out=room.view(-1, width * channels))
        lines.zero_()
        for x in range(width):
            lines[:, :, _places(x, columns, stride[1])] += room[:, :, :, x]
        pixels[:, _places(y, rows, stride[0])] += lines
    return pixels.permute(0, 3, 1, 2)


def _places(offset: int, count: int, step: int) -> slice:
    """Return the pixels of one axis that lie under one place of the kernel."""
    return slice(offset, offset + step * (count - 1) + 1, step)
