"""One convolution and primary capsules: the encoder of the original capsule network.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), section 4 and Figure 1.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import Encoder, capsules_of_maps
from capsule_lightning.errors import InputError
from capsule_lightning.kernels.cpu_conv_relu_conv import Convolution, block_size, blocks_pay, conv_relu_conv
from capsule_lightning.kernels.cpu_convolution import columns_pay, conv2d
from capsule_lightning.layers.squash import squash

Padding = Literal["valid", "same"]
Mode = Literal["paper", "official"]


class SabourEncoder(Encoder):
    """Convolution with ReLU, then a convolution whose channels are squashed in groups of ``dim``.

    No ReLU and no routing at the primary capsules (paper, section 4). Defaults are the MNIST network: 28x28 images
    give 32 x 6 x 6 = 1152 capsules of 8 dimensions.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        channels: filters of the first convolution.
        kernel_size: of the first convolution.
        stride: of the first convolution.
        num_types: types of primary capsules, each type one map of capsules with shared weights.
        dim: dimensions of a primary capsule.
        primary_kernel_size: of the second convolution.
        primary_stride: of the second convolution.
        padding: ``valid``, or ``same`` for ``ceil(size / stride)`` outputs (the CIFAR-10 network).
        mode: ``paper``, or ``official`` for what the released code does: every bias 0.1, truncated normal weights
            (0.05 and 0.1), and the second convolution divided by ``num_types`` before bias and squash, because it goes
            through one routing iteration of uniform coupling.
        leaky: ``official`` only: divide by ``num_types + 1``, as the code's leaky routing does (its CIFAR-10 network).

    Raises:
        InputError: a size below 1, or images too small for the kernels.
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
        mode: Mode = "paper",
        leaky: bool = False,
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
            if value < 1:
                raise InputError(f"SabourEncoder: {name}={value}: expected at least 1")
        for name, word, known in (("padding", padding, get_args(Padding)), ("mode", mode, get_args(Mode))):
            if word not in known:
                raise InputError(f"SabourEncoder: {name}={word!r}: expected one of {', '.join(known)}")
        if leaky and mode == "paper":
            raise InputError("SabourEncoder: leaky=true divides as the released code does: it needs mode: official")
        self.in_shape, self.padding, self.dim, self.num_types = in_shape, padding, dim, num_types
        rows, columns = in_shape[-2:]
        for kernel, step in ((kernel_size, stride), (primary_kernel_size, primary_stride)):
            rows, columns = (out_size(n, kernel, step, padding) for n in (rows, columns))
        if rows < 1 or columns < 1:
            need = kernel_size + (primary_kernel_size - 1) * stride
            raise InputError(
                f"images of {in_shape[-2]}x{in_shape[-1]} are too small for kernels {kernel_size} and "
                f"{primary_kernel_size} with stride {stride}: expected at least {need}x{need}; "
                "choose smaller kernels or padding: same"
            )
        self.num_capsules = num_types * rows * columns
        self.conv = nn.Conv2d(in_shape[0], channels, kernel_size, stride)
        self.primary = nn.Conv2d(channels, num_types * dim, primary_kernel_size, primary_stride)
        self.coupling = 1.0 if mode == "paper" else 1 / (num_types + leaky)
        if mode == "official":
            for layer, std in ((self.conv, 0.05), (self.primary, 0.1)):
                nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
                nn.init.constant_(layer.bias, 0.1)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Capsules:
        """See `Encoder.forward`; capsules are ordered by type, row, column."""
        conv, primary = _convolution(self.conv), _convolution(self.primary)
        if self.coupling != 1:
            primary = primary._replace(weight=primary.weight * self.coupling)
        if self.padding == "valid" and blocks_pay(images, conv):
            maps = conv_relu_conv(images, conv, primary, block_size(images, conv))
            return Capsules.from_vectors(squash(capsules_of_maps(maps, self.dim)))
        if columns_pay(images, primary.weight):  # and the library gives maps of the order of its weights
            weight = conv.weight.to(memory_format=torch.channels_last)  # `contiguous` leaves a single channel as it is
            conv = conv._replace(weight=weight)
        features = torch.relu_(conv(self._pad(images, self.conv)))  # in place: the largest maps of the network
        maps = conv2d(self._pad(features, self.primary), *primary)
        return Capsules.from_vectors(squash(capsules_of_maps(maps, self.dim)))

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


def out_size(size: int, kernel: int, stride: int, padding: Padding) -> int:
    """Outputs of a convolution along one axis; zero or less where the kernel does not fit."""
    return -(-size // stride) if padding == "same" else (size - kernel) // stride + 1


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis for ``ceil(size / stride)`` outputs, the odd one after, as TensorFlow has it."""
    total = max((out_size(size, kernel, stride, "same") - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
