"""Two convolutions with a ReLU between them, whose maps are never held for the whole batch at once.

The maps between them are the largest of a capsule network: 50 MiB in float32 for the encoder of Sabour et al. 2017 and
128 images of MNIST, and a training step that follows the library's order holds three copies at its peak. Here one block
of the batch goes through both convolutions and its maps are dropped; the backward pass computes them again, which is
cheap, since the first convolution is a twentieth of the arithmetic.
"""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_BLOCK_OF_MAPS = 2**22  # numbers: 16 MiB in float32


class Convolution(NamedTuple):
    """A convolution without padding.

    Attributes:
        weight: ``(O, C, K, L)``.
        bias: ``(O)``.
        stride: stride along rows and columns.
    """

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]

    def __call__(self, maps: Tensor) -> Tensor:
        """Return maps ``(B, O, rows, columns)`` of maps ``(B, C, H, W)``."""
        return F.conv2d(maps, self.weight, self.bias, self.stride)


def images_per_block(images: Tensor, first: Convolution) -> int:
    """Return how many images fill a block with the maps of the first convolution; blocks are about equally large."""
    sides = zip(images.shape[2:], first.weight.shape[2:], first.stride, strict=True)
    rows, columns = ((n - k) // s + 1 for n, k, s in sides)
    most = max(1, _BLOCK_OF_MAPS // (len(first.weight) * rows * columns))
    return ceil(len(images) / max(1, ceil(len(images) / most)))


def blocks_pay(images: Tensor, first: Convolution) -> bool:
    """Return whether blocks pay off: when training on the CPU in full precision with a batch of several blocks."""
    plain = images.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    return plain and torch.is_grad_enabled() and images_per_block(images, first) < len(images)


def conv_relu_conv(images: Tensor, first: Convolution, second: Convolution, block: int) -> Tensor:
    """Return ``second(relu(first(images)))``, which can be differentiated once.

    Args:
        images: ``(B, C, H, W)``.
        first, second: the two convolutions.
        block: images at a time, at least 1.

    Returns:
        ``(B, O, rows, columns)``.
    """
    out: Tensor = _ConvReluConv.apply(images, *first[:2], *second[:2], first.stride, second.stride, block)
    return out


class _ConvReluConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        next_weight: Tensor,
        next_bias: Tensor,
        stride: tuple[int, int],
        next_stride: tuple[int, int],
        block: int,
    ) -> Tensor:
        first, second = Convolution(weight, bias, stride), Convolution(next_weight, next_bias, next_stride)
        ctx.save_for_backward(images, weight, bias, next_weight)
        ctx.strides, ctx.block = (stride, next_stride), block
        return torch.cat([second(torch.relu_(first(part))) for part in torch.split(images, block)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, bias, next_weight = ctx.saved_tensors
        stride, next_stride = ctx.strides
        of_images, of_parameters = [], [torch.zeros_like(p) for p in (weight, bias, next_weight)]
        of_parameters.append(grad.sum(dim=(0, 2, 3)))
        for part, of_part in zip(torch.split(images, ctx.block), torch.split(grad, ctx.block), strict=True):
            maps = torch.relu_(Convolution(weight, bias, stride)(part))
            of_maps, of_next_weight, _ = _gradients(of_part, maps, next_weight, next_stride, (True, True, False))
            of_maps = torch.ops.aten.threshold_backward(of_maps, maps, 0)
            mask = (ctx.needs_input_grad[0], True, True)
            of_image, of_weight, of_bias = _gradients(of_maps, part, weight, stride, mask)
            for total, found in zip(of_parameters, (of_weight, of_bias, of_next_weight), strict=False):
                total += found
            of_images.append(of_image)
        return torch.cat(of_images) if ctx.needs_input_grad[0] else None, *of_parameters, None, None, None


def _gradients(
    grad: Tensor, maps: Tensor, weight: Tensor, stride: tuple[int, int], mask: tuple[bool, bool, bool]
) -> tuple[Any, Any, Any]:
    """Return the gradients of maps, weight and bias, of which the mask says which are computed."""
    found: tuple[Any, Any, Any] = torch.ops.aten.convolution_backward(
        grad, maps, weight, [len(weight)], stride, [0, 0], [1, 1], False, [0, 0], 1, mask
    )
    return found
