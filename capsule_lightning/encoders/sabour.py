"""The encoder of the original capsule network: one convolution, then primary capsules.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), section 4 and Figure 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import CapsuleMap, Encoder, capsules_of_maps
from capsule_lightning.errors import require, require_one_of
from capsule_lightning.kernels.cpu_conv_relu_conv import Convolution, blocks_pay, conv_relu_conv, images_per_block
from capsule_lightning.kernels.cpu_conv_relu_frequency_conv import conv_relu_frequency_conv
from capsule_lightning.kernels.cpu_convolution import columns_pay, conv2d
from capsule_lightning.kernels.cpu_frequency_conv import MOST_POSITIONS, frequency_conv2d, products_that_pay
from capsule_lightning.kernels.frequencies import largest_transform
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.variant import Variant, require_variant

Padding = Literal["valid", "same"]
Backend = Literal["auto", "torch", "frequencies"]


class SabourEncoder(Encoder):
    """Convolution with ReLU, then a convolution whose channels are squashed in groups of ``dim``.

    There is no ReLU and no routing at the primary capsules (section 4 of the paper). The defaults are the MNIST
    network: 28x28 images give 32 x 6 x 6 = 1152 capsules of 8 dimensions.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        channels: filters of the first convolution.
        kernel_size: kernel size of the first convolution.
        stride: stride of the first convolution.
        num_types: types of primary capsules; each type is one map of capsules with shared weights.
        dim: dimensions of a primary capsule.
        primary_kernel_size: kernel size of the second convolution.
        primary_stride: stride of the second convolution.
        padding: ``valid``, or ``same`` for ``ceil(size / stride)`` outputs (the CIFAR-10 network).
        mode: ``paper``, or ``official`` for what the released code does: every bias starts at 0.1, weights start
            truncated normal (0.05 and 0.1), and the second convolution is divided by ``num_types`` before bias and
            squash, because it goes through one iteration of routing with uniform couplings.
        leaky: divide by ``num_types + 1`` instead, as the leaky routing of the released code does (its CIFAR-10
            network); only if ``mode`` is ``official``.
        backend: how the convolutions are computed, to the same values but for rounding: ``torch`` by the library alone;
            ``frequencies`` the second one by products of frequencies, on a CPU, wherever they can be; ``auto`` by what
            is measured to be faster.

    Raises:
        InputError: a size is below 1, the images are too small for the kernels, or ``backend`` cannot be had.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        *,
        channels: int = 256,
        kernel_size: int = 9,
        stride: int = 1,
        num_types: int = 32,
        dim: int = 8,
        primary_kernel_size: int = 9,
        primary_stride: int = 2,
        padding: Padding = "valid",
        mode: Variant = "paper",
        leaky: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        for name, value in {
            "channels": channels,
            "kernel_size": kernel_size,
            "stride": stride,
            "num_types": num_types,
            "dim": dim,
            "primary_kernel_size": primary_kernel_size,
            "primary_stride": primary_stride,
        }.items():
            require(value >= 1, f"SabourEncoder: {name}={value}: expected at least 1")
        require_one_of("SabourEncoder: padding", padding, get_args(Padding))
        require_one_of("SabourEncoder: backend", backend, get_args(Backend))
        require_variant(mode, "SabourEncoder")
        require(
            not leaky or mode == "official",
            f"SabourEncoder: leaky=true with mode={mode}: only the released code divides this way; use mode=official "
            "or leaky=false",
        )
        self.in_shape, self.padding, self.dim, self.num_types = in_shape, padding, dim, num_types
        middle = tuple(out_size(n, kernel_size, stride, padding) for n in in_shape[-2:])
        rows, columns = (out_size(n, primary_kernel_size, primary_stride, padding) for n in middle)
        need = kernel_size + (primary_kernel_size - 1) * stride
        require(
            rows >= 1 and columns >= 1,
            f"images of {in_shape[-2]}x{in_shape[-1]} are too small for kernels {kernel_size} and "
            f"{primary_kernel_size} with stride {stride}: expected at least {need}x{need}; "
            "choose smaller kernels or padding=same",
        )
        positions = largest_transform((rows, columns), (primary_kernel_size,) * 2, (primary_stride,) * 2)
        require(
            backend != "frequencies" or positions <= MOST_POSITIONS,
            f"SabourEncoder: backend=frequencies with primary_kernel_size={primary_kernel_size} and "
            f"primary_stride={primary_stride} needs transforms of {positions} positions: expected at most "
            f"{MOST_POSITIONS}; use backend=auto",
        )
        self.backend, self._outputs = backend, (rows, columns)
        self.num_capsules = num_types * rows * columns
        self.conv = nn.Conv2d(in_shape[0], channels, kernel_size, stride)
        self.primary = nn.Conv2d(channels, num_types * dim, primary_kernel_size, primary_stride)
        self.coupling = 1.0 if mode == "paper" else 1 / (num_types + leaky)
        if mode == "official":
            for layer, std in ((self.conv, 0.05), (self.primary, 0.1)):
                nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
                nn.init.constant_(layer.bias, 0.1)  # type: ignore[arg-type]

    @override
    def forward(self, images: Tensor) -> Capsules:
        """Return capsules ordered by type, row, column."""
        conv, primary = _convolution(self.conv), _convolution(self.primary)
        if self.coupling != 1:
            primary = primary._replace(weight=primary.weight * self.coupling)
        return Capsules.from_vectors(squash(capsules_of_maps(self._maps(images, conv, primary), self.dim)))

    def _maps(self, images: Tensor, conv: Convolution, primary: Convolution) -> Tensor:
        """Return the maps ``(B, types * dim, rows, columns)`` that are the capsules."""
        products = self._products_of_frequencies(images, primary)
        if self.padding == "valid" and products is not None:
            return conv_relu_frequency_conv(images, conv, primary, products)
        if self.padding == "valid" and self.backend == "auto" and blocks_pay(images, conv):
            return conv_relu_conv(images, conv, primary, images_per_block(images, conv))
        columns = self.backend == "auto" and columns_pay(images, primary.weight)
        if products is not None or columns:  # the library returns maps in the memory order of its weights
            weight = conv.weight.to(
                memory_format=torch.channels_last
            )  # `contiguous` would not reorder a single channel
            conv = conv._replace(weight=weight)
        with nullcontext() if products != torch.float32 else torch.autocast("cpu", enabled=False):
            features = torch.relu_(conv(self._pad(images, self.conv)))  # in place: the largest maps of the network
        features = self._pad(features, self.primary)
        if products is not None:
            return frequency_conv2d(features, *primary, products)
        return conv2d(features, *primary) if self.backend == "auto" else primary(features)

    def _products_of_frequencies(self, images: Tensor, primary: Convolution) -> torch.dtype | None:
        """Return the dtype of products of frequencies if the second convolution is to be made of them.

        Raises:
            InputError: they are asked for on another device than a CPU.
        """
        if self.backend == "torch":
            return None
        require(
            self.backend == "auto" or images.device.type in ("cpu", "meta"),
            f"SabourEncoder: backend=frequencies with images on {images.device}: frequencies are for a CPU; use "
            "backend=auto",
        )
        weight, _, stride = primary
        return products_that_pay(images, self._outputs, weight, stride, forced=self.backend == "frequencies")

    @override
    def capsule_map(self) -> CapsuleMap:
        return convolved_map(self.in_shape, [self.conv, self.primary], self.num_types, self.padding)

    def _pad(self, maps: Tensor, layer: nn.Conv2d) -> Tensor:
        if self.padding == "valid":
            return maps
        rows, columns = (
            same_padding(n, k, s) for n, k, s in zip(maps.shape[-2:], layer.kernel_size, layer.stride, strict=True)
        )
        return F.pad(maps, (*columns, *rows))


def _convolution(layer: nn.Conv2d) -> Convolution:
    assert layer.bias is not None
    return Convolution(layer.weight, layer.bias, (layer.stride[0], layer.stride[1]))


def convolved_map(
    in_shape: Sequence[int], layers: Sequence[nn.Conv2d], types: int, padding: Padding = "valid"
) -> CapsuleMap:
    """Return where the capsules lie that a chain of convolutions makes, ordered by type, row, column.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        layers: the convolutions in their order; layers between them keep the size of the maps.
        types: number of capsules at each place.
        padding: padding of all of them.
    """
    sizes, edges = [], []
    for axis, size in enumerate(in_shape[-2:]):
        count, center, step = size, 0.5, 1.0  # the first place, and from one to the next, in pixels of the image
        for layer in layers:
            kernel, stride = layer.kernel_size[axis], layer.stride[axis]
            before = same_padding(count, kernel, stride)[0] if padding == "same" else 0
            center += step * ((kernel - 1) / 2 - before)
            count, step = out_size(count, kernel, stride, padding), step * stride
        sizes.append(count)
        edges.append((center - step / 2, center + step * (count - 0.5)))
    rows, columns = sizes
    (top, bottom), (left, right) = edges
    return CapsuleMap(types, rows, columns, by_type=True, extent=(left, right, bottom, top))


def out_size(size: int, kernel: int, stride: int, padding: Padding) -> int:
    """Return the number of outputs of a convolution along one axis; zero or less if the kernel does not fit."""
    return -(-size // stride) if padding == "same" else (size - kernel) // stride + 1


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after one axis for ``ceil(size / stride)`` outputs, an odd one after (TensorFlow)."""
    total = max((out_size(size, kernel, stride, "same") - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
