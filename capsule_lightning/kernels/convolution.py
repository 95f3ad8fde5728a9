"""Convolution with a large kernel in bfloat16 on the CPU, as matrix products over columns.

Library convolutions leave much of the bfloat16 units idle in the backward pass: for the primary capsules of Sabour et
al. 2017 (9x9, stride 2, 256 to 256 channels) they take up to four times what the matrix products take that the same
arithmetic amounts to. Here the pixels under the kernel are laid out as the rows of a matrix, a block of the batch at a
time, with the channels innermost, so that both the laying out and its reverse move long runs of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_BLOCK_OF_COLUMNS = 2**24  # numbers: 32 MiB in bfloat16
_LARGE_KERNEL = 49  # places; below, the library's own convolution is as fast


def conv2d(maps: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> Tensor:
    """`torch.nn.functional.conv2d` without padding, by columns where that is faster.

    Args:
        maps: ``(B, C, H, W)``.
        weight: ``(O, C, K, L)``.
        bias: ``(O)``.
        stride: of rows and columns.

    Returns:
        ``(B, O, rows, columns)``, in the precision that autocast asks for.
    """
    if not columns_pay(maps, weight):
        return F.conv2d(maps, weight, bias, stride)
    with torch.autocast("cpu", enabled=False):
        return columns_conv2d(maps.bfloat16(), weight, bias, stride)


def columns_pay(maps: Tensor, weight: Tensor) -> bool:
    """Whether `conv2d` goes by columns, which wants the channels of ``maps`` innermost (`torch.channels_last`)."""
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    large = weight[0, 0].numel() >= _LARGE_KERNEL and weight.shape[1] > 1
    return maps.device.type == "cpu" and half and large and not torch.compiler.is_compiling()


def columns_conv2d(
    maps: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], block: int | None = None
) -> Tensor:
    """Convolution without padding as matrix products over columns, ``block`` images at a time; differentiable once.

    Computes in the dtype of ``maps``, in which the gradients are added up that one pixel gets from several places of
    the kernel; what the blocks add to the gradient of ``weight`` is added up in float32 or wider.

    Args:
        maps, weight, bias, stride: see `conv2d`.
        block: images at a time; None for as many as 32 MiB of columns hold.
    """
    if block is None:
        rows, columns = _out_sizes(maps, weight.shape, stride)
        most = max(1, _BLOCK_OF_COLUMNS // (rows * columns * weight[0].numel()))
        block = max(1, ceil(len(maps) / max(1, ceil(len(maps) / most))))
    out: Tensor = _ColumnsConv2d.apply(maps, weight, bias, stride, block)
    return out


class _ColumnsConv2d(torch.autograd.Function):
    """Pixels are ``(B, H, W, C)`` throughout; a row of columns, and of the matrix of weights, holds ``(K, L, C)``."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], block: int
    ) -> Tensor:
        rows, columns = _out_sizes(maps, weight.shape, stride)
        matrix = weight.permute(2, 3, 1, 0).to(maps.dtype).reshape(-1, len(weight))
        out = maps.new_empty(len(maps), rows, columns, len(weight))
        for part, of_part in _columns(maps, weight.shape, stride, block):
            torch.mm(of_part, matrix, out=out[part].view(-1, len(weight)))
        if bias is not None:
            out += bias
        ctx.save_for_backward(maps, matrix)
        ctx.shape, ctx.stride, ctx.block = weight.shape, stride, block
        ctx.weight_dtype, ctx.bias_dtype = weight.dtype, None if bias is None else bias.dtype
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, matrix = ctx.saved_tensors
        grad = grad.permute(0, 2, 3, 1).contiguous()  # (B, rows, columns, O)
        grad_maps = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_maps = _grad_maps(grad, maps.shape, matrix, ctx.shape, ctx.stride, ctx.block)
        if ctx.needs_input_grad[1]:
            total = matrix.new_zeros(matrix.shape, dtype=torch.promote_types(maps.dtype, torch.float32))
            for part, of_part in _columns(maps, ctx.shape, ctx.stride, ctx.block):
                total += of_part.t() @ grad[part].flatten(0, 2)
            out, channels, height, width = ctx.shape
            grad_weight = total.view(height, width, channels, out).permute(3, 2, 0, 1).to(ctx.weight_dtype)
        if ctx.bias_dtype is not None:
            grad_bias = grad.sum(dim=(0, 1, 2), dtype=ctx.bias_dtype)
        return grad_maps, grad_weight, grad_bias, None, None


def _columns(maps: Tensor, shape: torch.Size, stride: tuple[int, int], block: int) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of images, and the pixels under the kernel at each of its places, ``(n * rows * columns, K * L * C)``.

    A block's columns are overwritten by those of the next: memory that is used again is in the cache, and mapped.
    """
    pixels = maps.permute(0, 2, 3, 1).contiguous()
    windows = pixels.unfold(1, shape[2], stride[0]).unfold(2, shape[3], stride[1]).permute(0, 1, 2, 4, 5, 3)
    room = maps.new_empty(min(block, len(maps)), *windows.shape[1:])
    for start in range(0, len(maps), block):
        part = slice(start, start + block)
        of_part = room[: len(windows[part])]
        of_part.copy_(windows[part])
        yield part, of_part.flatten(0, 2).flatten(1)


def _grad_maps(
    grad: Tensor, maps: torch.Size, matrix: Tensor, shape: torch.Size, stride: tuple[int, int], block: int
) -> Tensor:
    """Gradients of the columns, added up where kernels overlap: first along the rows of the image, then across."""
    batch, rows, columns, out = grad.shape
    _, channels, height, width = shape
    pixels = grad.new_zeros(batch, *maps[2:], channels)
    room = grad.new_empty(min(block, batch), rows, columns, height, width, channels)
    for start in range(0, batch, block):
        part = slice(start, start + block)
        of_columns = room[: len(pixels[part])]
        torch.mm(grad[part].view(-1, out), matrix.t(), out=of_columns.view(-1, len(matrix)))
        lines = grad.new_zeros(len(of_columns), rows, height, maps[3], channels)
        for x in range(width):
            lines[:, :, :, _places(x, columns, stride[1])] += of_columns[:, :, :, :, x].transpose(2, 3)
        for y in range(height):
            pixels[part, _places(y, rows, stride[0])] += lines[:, :, y]
    return pixels.permute(0, 3, 1, 2)


def _places(offset: int, count: int, step: int) -> slice:
    """The pixels of one axis that lie under one place of the kernel."""
    return slice(offset, offset + step * (count - 1) + 1, step)


def _out_sizes(maps: Tensor, shape: torch.Size, stride: tuple[int, int]) -> tuple[int, int]:
    rows, columns = ((n - k) // s + 1 for n, k, s in zip(maps.shape[2:], shape[2:], stride, strict=True))
    return rows, columns
