"""A convolution of given maps by products of frequencies on the CPU; see `frequencies` and `cpu_frequencies`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.kernels.cpu_frequencies import FrequencyConvolution, Maps
from capsule_lightning.kernels.frequencies import Phase, Size, Tile, largest_transform, relative_work

_PAYS = 0.57
"""The most relative work with which frequencies are faster; not 1, as small products are slower than large ones."""
_PAYS_WITH_AVX512 = 0.45
"""The same for products in float32 if the processor has AVX-512, of which the library's convolution makes more."""
MOST_POSITIONS = 1024
"""Positions of the largest transform: 32x32, whose matrices have 6 MiB in float32."""


def products_that_pay(
    images: Tensor, outputs: Size, weight: Tensor, stride: Size, forced: bool = False
) -> torch.dtype | None:
    """Return the dtype of products of frequencies if a convolution should be made of them; None if by the library.

    The law: on a CPU, when `relative_work` is at most 0.57, or 0.45 in float32 if there is AVX-512. Where autocast asks
    for bfloat16, products are in bfloat16 if the processor can multiply it, and in float32 otherwise; they do not pay
    if it multiplies it in matrices (AMX), nor on processors other than x86, which have not been measured. The library
    also computes what is compiled, exported, or transformed by `torch.func`.

    Args:
        images: what the maps are made of, or the maps.
        outputs: rows and columns of the outputs.
        weight: ``(O, C, K, L)``.
        stride: stride along rows and columns.
        forced: use frequencies wherever they can be.
    """
    if images.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64) or _is_followed():
        return None
    kernel = weight.shape[2], weight.shape[3]
    batch, channels = len(images), (weight.shape[1], weight.shape[0])
    if min(batch, *outputs, *channels) < 1 or largest_transform(outputs, kernel, stride) > MOST_POSITIONS:
        return None
    products, measured = weight.dtype, True
    if torch.is_autocast_enabled("cpu") and products != torch.float64:  # which autocast leaves
        if torch.get_autocast_dtype("cpu") != torch.bfloat16:
            return None
        products = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else products
        measured = torch.cpu._is_avx2_supported() and not torch.cpu._is_amx_tile_supported()
    wide = products == torch.float32 and torch.cpu._is_avx512_supported()
    most = _PAYS_WITH_AVX512 if wide else _PAYS
    pays = measured and relative_work(batch, channels, outputs, kernel, stride) <= most
    return products if forced or pays else None


def _is_followed() -> bool:
    """Return whether torch follows what is computed, and so must see the library's convolution."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
    )


def frequency_conv2d(
    maps: Tensor, weight: Tensor, bias: Tensor | None, stride: Size, products: torch.dtype | None = None
) -> Tensor:
    """Convolve without padding by products of frequencies; the result can be differentiated once.

    Args:
        maps: ``(B, C, H, W)`` in any memory order; fastest with channels innermost (`channels_last`).
        weight: ``(O, C, K, L)``, float32 or float64.
        bias: ``(O)``.
        stride: stride along rows and columns.
        products: dtype of the products of frequencies; None for that of the weight.

    Returns:
        ``(B, O, rows, columns)`` in the dtype of the weight.
    """
    if maps.numel() == 0:
        return F.conv2d(maps, weight, bias, stride)
    with torch.autocast("cpu", enabled=False):
        out: Tensor = _FrequencyConv2d.apply(maps, weight, bias, stride, products or weight.dtype)
    return out


class _FrequencyConv2d(torch.autograd.Function):
    """The autograd function of `frequency_conv2d`; it keeps the maps and forms their spectrum twice."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, stride: Size, products: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.options = stride, (maps.shape[2], maps.shape[3]), products
        return FrequencyConvolution(weight, *ctx.options).forward(_GivenMaps(maps, stride, products), bias)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        of_maps, of_weight, of_bias = ctx.needs_input_grad[:3]
        stride, _, products = ctx.options
        given = _GivenMaps(maps, stride, products)
        with torch.autocast("cpu", enabled=False):
            grad_weight = FrequencyConvolution(weight, *ctx.options).backward(given, grad, [], of_weight, of_maps)
            grad_bias = grad.sum(dim=(0, 2, 3)) if of_bias else None
        return given.gradient, grad_weight, grad_bias, None, None


class _GivenMaps(Maps):
    """Maps ``(B, C, H, W)``, and their gradient, with channels innermost, None until there is any."""

    def __init__(self, maps: Tensor, stride: Size, products: torch.dtype) -> None:
        self.maps, self.stride, self.products = maps, stride, products
        self.batch, self.channels = maps.shape[:2]
        self.width = self.channels
        self.gradient: Tensor | None = None

    @override
    def read(self, tile: Tile, phase: Phase, images: slice) -> Tensor:
        positions = self._positions(self.maps, tile, phase, images)
        return positions.to(self.products, memory_format=torch.contiguous_format).flatten(0, 1)

    @override
    def take_gradient(self, tile: Tile, phase: Phase, images: slice, gradient: Tensor) -> None:
        if self.gradient is None:
            self.gradient = torch.zeros_like(self.maps, memory_format=torch.channels_last)
        positions = self._positions(self.gradient, tile, phase, images)
        positions += gradient.view(positions.shape)

    def _positions(self, maps: Tensor, tile: Tile, phase: Phase, images: slice) -> Tensor:
        """Return a view ``(rows, columns, b, C)`` of the positions of a phase."""
        rows, columns = (
            slice(first, first + step * (count - 1) + 1, step)
            for first, step, count in zip(
                tile.first_pixel(phase, self.stride), self.stride, phase.positions, strict=True
            )
        )
        return maps[images, :, rows, columns].permute(2, 3, 0, 1)
