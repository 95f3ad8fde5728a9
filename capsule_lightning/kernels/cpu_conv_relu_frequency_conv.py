"""Two convolutions with a ReLU between them, the second by products of frequencies; see `frequencies`.

The maps between the two, the largest of a capsule network, are never held as a whole: the first convolution makes the
positions of one phase of the second, in the order in which they are transformed, and only their spectrum is kept, and
which of them are above zero. The backward pass overwrites the one by its gradient.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.kernels.cpu_conv_relu_conv import Convolution
from capsule_lightning.kernels.cpu_frequencies import FrequencyConvolution, Maps
from capsule_lightning.kernels.cpu_products import add_product, linear
from capsule_lightning.kernels.frequencies import Phase, Size, Tile


def conv_relu_frequency_conv(
    images: Tensor, first: Convolution, second: Convolution, products: torch.dtype | None = None
) -> Tensor:
    """Return ``second(relu(first(images)))``; the result can be differentiated once.

    Args:
        images: ``(B, C, H, W)``, in the dtype of the weights.
        first, second: the two convolutions; the first is a product over the pixels under its kernel, which suits
            images of a few channels.
        products: dtype of the products of frequencies; None for that of the weights.

    Returns:
        ``(B, O, rows, columns)`` in the dtype of the weights.
    """
    if images.numel() == 0:
        return second(torch.relu(first(images)))
    strides, dtype = (first.stride, second.stride), second.weight.dtype
    keep = torch.is_grad_enabled()
    with torch.autocast("cpu", enabled=False):
        out: Tensor = _ConvReluFrequencyConv.apply(
            images.to(dtype), *first[:2], *second[:2], *strides, products or dtype, keep
        )
    return out


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Of as many bytes as a number."""
_POSITIONS = 16  # of all images, that are masked at a time


class _ConvReluFrequencyConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        next_weight: Tensor,
        next_bias: Tensor,
        stride: Size,
        next_stride: Size,
        products: torch.dtype,
        keep: bool,
    ) -> Tensor:
        maps = _MadeMaps(images, Convolution(weight, bias, stride), next_stride, products)
        ctx.save_for_backward(images, weight, bias, next_weight)
        ctx.stride, ctx.options = stride, (next_stride, maps.size, products)
        second = FrequencyConvolution(next_weight, *ctx.options)
        if keep:
            maps.keep_signs(second.tiles)
        out, ctx.spectra = second.forward(maps, next_bias, keep)
        ctx.signs = maps.signs
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, bias, next_weight = ctx.saved_tensors
        of_images, of_weight, of_bias, of_next_weight, of_next_bias = ctx.needs_input_grad[:5]
        next_stride, _, products = ctx.options
        maps = _MadeMaps(images, Convolution(weight, bias, ctx.stride), next_stride, products)
        maps.signs = ctx.signs
        of_maps = of_images or of_weight or of_bias
        with torch.autocast("cpu", enabled=False):
            if of_maps:
                maps.expect_gradients(of_images)
            second = FrequencyConvolution(next_weight, *ctx.options)
            grad_next_weight = second.backward(maps, grad, ctx.spectra, of_next_weight, of_maps)
            grad_next_bias = grad.sum(dim=(0, 2, 3)) if of_next_bias else None
        of_first = maps.of_first or (None, None)
        return maps.of_images, *of_first[:2], grad_next_weight, grad_next_bias, *(None,) * 4


class _MadeMaps(Maps):
    """The maps ``relu(first(images))``, made when they are read.

    Attributes:
        size: their rows and columns.
        signs: which positions of each phase are above zero, by its first pixel; None not to keep that.
        of_images, of_first: gradients of the images, and of weight and bias; None unless they are expected.
    """

    def __init__(self, images: Tensor, first: Convolution, step: Size, products: torch.dtype) -> None:
        self.pixels, self.first, self.step = images.to(products), first, step
        self.batch, self.channels = len(images), len(first.weight)
        self.matrix = first.weight.flatten(1).to(products)  # (C, channels of the images * K * L)
        self.bias = first.bias.to(products)
        self.width = max(self.matrix.shape)
        sides = zip(images.shape[2:], first.weight.shape[2:], first.stride, strict=True)
        rows, columns = ((n - k) // s + 1 for n, k, s in sides)
        self.size = rows, columns
        self.signs: dict[Size, Tensor] | None = None
        self.of_images: Tensor | None = None
        self.of_first: Convolution | None = None

    def keep_signs(self, tiles: tuple[Tile, ...]) -> None:
        """Make room for the signs of all phases, before shorter-lived tensors leave holes between them."""
        self.signs = {
            tile.first_pixel(phase, self.step): torch.empty(
                prod(phase.positions), self.batch, self.channels, dtype=torch.bool
            )
            for tile in tiles
            for phase in tile.phases
        }

    def expect_gradients(self, of_images: bool) -> None:
        """Make room for the gradients of weight and bias, and of the images if they are wanted."""
        self.of_images = torch.zeros_like(self.pixels, dtype=self.first.weight.dtype) if of_images else None
        self.of_first = self.first._replace(
            weight=torch.zeros_like(self.first.weight), bias=torch.zeros_like(self.first.bias)
        )

    @override
    def read(self, tile: Tile, phase: Phase, images: slice) -> Tensor:
        maps = linear(self._columns(tile, phase, images), self.matrix, self.bias).relu_()
        maps = maps.view(-1, images.stop - images.start, self.channels)
        if self.signs is not None:
            self.signs[tile.first_pixel(phase, self.step)][:, images] = maps  # none of them is below zero
        return maps

    @override
    def take_gradient(self, tile: Tile, phase: Phase, images: slice, gradient: Tensor) -> None:
        assert self.signs is not None
        assert self.of_first is not None
        signs = self.signs[tile.first_pixel(phase, self.step)][:, images]
        bits = gradient.view(_INTEGERS[gradient.itemsize])  # which are multiplied by 0 and 1 faster than numbers
        for some, their_signs in zip(torch.split(bits, _POSITIONS), torch.split(signs, _POSITIONS), strict=True):
            some *= their_signs  # torch widens the signs in memory, hence a few at a time
        flat = gradient.view(-1, self.channels)
        add_product(self._columns(tile, phase, images).t(), flat, self.of_first.weight.view_as(self.matrix).t())
        self.of_first.bias.add_(flat.sum(dim=0, dtype=self.first.bias.dtype))
        if self.of_images is not None:
            columns = (flat @ self.matrix).view(len(gradient), gradient.shape[1], -1).permute(1, 2, 0)
            region = self._region(self.of_images, tile, phase)[images]
            region += F.fold(columns, region.shape[2:], self.first.weight.shape[2:], stride=self._stride)

    @property
    def _stride(self) -> Size:
        """Pixels of the images from one position of a phase to the next."""
        return self.first.stride[0] * self.step[0], self.first.stride[1] * self.step[1]

    def _region(self, pixels: Tensor, tile: Tile, phase: Phase) -> Tensor:
        """Return a view of the pixels that a phase sees through the first convolution."""
        rows, columns = (
            slice(place * stride, place * stride + step * (count - 1) + kernel)
            for place, stride, step, count, kernel in zip(
                tile.first_pixel(phase, self.step),
                self.first.stride,
                self._stride,
                phase.positions,
                self.first.weight.shape[2:],
                strict=True,
            )
        )
        return pixels[:, :, rows, columns]

    def _columns(self, tile: Tile, phase: Phase, images: slice) -> Tensor:
        """Return the pixels under the first kernel at each position, ``(positions * b, channels * K * L)``."""
        region = self._region(self.pixels, tile, phase)[images]
        (rows, columns), (down, right) = self.first.weight.shape[2:], self._stride
        under = region.unfold(2, rows, down).unfold(3, columns, right)  # (b, channels, y, x, K, L)
        return under.permute(2, 3, 0, 1, 4, 5).reshape(-1, self.matrix.shape[1])
