"""Normalized convolutions, then a depthwise convolution that makes each channel a coordinate of a primary capsule.

Mazzia, Salvetti & Chiaberge, Efficient-CapsNet, 2021 (arXiv 2101.12491), section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import CapsuleMap, Encoder, capsules_of_maps
from capsule_lightning.encoders.sabour import convolved_map, out_size
from capsule_lightning.errors import require, require_one_of
from capsule_lightning.layers.squash import exponential_squash

Norm = Literal["batch", "instance"]

#: The constants are the defaults of the authors' framework.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01),
    "instance": partial(nn.InstanceNorm2d, eps=1e-3, affine=True),
}


class EfficientEncoder(Encoder):
    """Convolutions, each with ReLU and then normalization, and a linear depthwise convolution whose output is squashed.

    The defaults are the MNIST network: 28x28 images give 16 capsules of 8 dimensions, with 141,184 parameters.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        channels: filters of each convolution; those of the last one become the coordinates of the capsules.
        kernel_sizes: kernel size of each convolution.
        strides: stride of each convolution.
        dim: dimensions of a primary capsule; divides the last of ``channels``.
        primary_kernel_size: kernel size of the depthwise convolution; null for the whole map, which leaves one capsule
            of each type.
        primary_stride: stride of the depthwise convolution.
        norm: ``batch``, or ``instance`` as in the smallNORB network.
        slope: slope of the activation below zero; 0 is ReLU, and the LeakyReLU of the smallNORB network has 0.3.

    Raises:
        InputError: ``norm`` is unknown, or the sizes do not fit each other or the images.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        *,
        channels: Sequence[int] = (32, 64, 64, 128),
        kernel_sizes: Sequence[int] = (5, 3, 3, 3),
        strides: Sequence[int] = (1, 1, 1, 2),
        dim: int = 8,
        primary_kernel_size: int | None = None,
        primary_stride: int = 1,
        norm: Norm = "batch",
        slope: float = 0.0,
    ) -> None:
        super().__init__()
        require_one_of("EfficientEncoder: norm", norm, tuple(NORMS))
        convolutions = f"channels={list(channels)}, kernel_sizes={list(kernel_sizes)}, strides={list(strides)}"
        require(
            len(channels) == len(kernel_sizes) == len(strides) >= 1,
            f"EfficientEncoder: {convolutions}: expected one of each for every convolution",
        )
        require(
            min(*channels, *kernel_sizes, *strides, dim, primary_stride, primary_kernel_size or 1) >= 1,
            f"EfficientEncoder: {convolutions}, dim={dim}, primary_kernel_size={primary_kernel_size}, "
            f"primary_stride={primary_stride}: expected at least 1 each",
        )
        require(
            channels[-1] % dim == 0,
            f"EfficientEncoder: dim={dim}: expected a number that divides the last of channels, {channels[-1]}, as "
            "each channel is one coordinate of a capsule",
        )
        self.in_shape, self.dim = in_shape, dim
        rows, columns = in_shape[-2:]
        layers: list[nn.Module] = []
        for width, out, kernel, stride in zip((in_shape[0], *channels), channels, kernel_sizes, strides, strict=False):
            activation = nn.LeakyReLU(slope) if slope else nn.ReLU()
            layers += [nn.Conv2d(width, out, kernel, stride), activation, NORMS[norm](out)]
            rows, columns = (out_size(n, kernel, stride, "valid") for n in (rows, columns))
        primary = (rows, columns) if primary_kernel_size is None else (primary_kernel_size,) * 2
        require(
            rows >= max(primary[0], 1) and columns >= max(primary[1], 1),
            f"EfficientEncoder: images of {in_shape[-2]}x{in_shape[-1]} leave maps of {max(rows, 0)}x{max(columns, 0)} "
            "for the primary capsules, which is too small: choose smaller kernel_sizes, strides or primary_kernel_size",
        )
        self.features = nn.Sequential(*layers)
        self.primary = nn.Conv2d(channels[-1], channels[-1], primary, primary_stride, groups=channels[-1])
        rows, columns = (out_size(n, k, primary_stride, "valid") for n, k in zip((rows, columns), primary, strict=True))
        self.num_capsules = channels[-1] // dim * rows * columns
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @override
    def forward(self, images: Tensor) -> Capsules:
        """Return capsules ordered by type, row, column."""
        maps = self.primary(self.features(images))
        return Capsules.from_vectors(exponential_squash(capsules_of_maps(maps, self.dim)))

    @override
    def capsule_map(self) -> CapsuleMap:
        layers = [*(layer for layer in self.features if isinstance(layer, nn.Conv2d)), self.primary]
        return convolved_map(self.in_shape, layers, self.primary.out_channels // self.dim)
