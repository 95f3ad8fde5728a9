"""A few normalized convolutions and one depthwise convolution that turns each channel into a coordinate of a capsule.

Mazzia, Salvetti & Chiaberge, Efficient-CapsNet, 2021 (arXiv 2101.12491), section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import Encoder, capsules_of_maps
from capsule_lightning.encoders.sabour import out_size
from capsule_lightning.errors import InputError
from capsule_lightning.layers.squash import exponential_squash

Norm = Literal["batch", "instance"]

#: With the constants that the framework of the authors has as its defaults.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01),
    "instance": partial(nn.InstanceNorm2d, eps=1e-3, affine=True),
}


class EfficientEncoder(Encoder):
    """Convolutions, each with ReLU and then normalization, and a linear depthwise convolution, squashed.

    Defaults are the MNIST network: 28x28 images give 16 capsules of 8 dimensions, from 141,184 parameters.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        channels: filters of each convolution; the last are shared out among the capsules.
        kernel_sizes: of each convolution.
        strides: of each convolution.
        dim: dimensions of a primary capsule; divides the last of ``channels``.
        primary_kernel_size: of the depthwise convolution; null for the whole map, which leaves one capsule of a type.
        primary_stride: of the depthwise convolution.
        norm: ``batch``, or ``instance`` as the smallNORB network has it.
        slope: of the activation below zero; 0 is ReLU, the smallNORB network's LeakyReLU has 0.3.

    Raises:
        InputError: an unknown ``norm``; sizes that do not fit each other or the images.
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
        if norm not in NORMS:
            raise InputError(f"EfficientEncoder: norm={norm!r}: expected one of {', '.join(NORMS)}")
        if not len(channels) == len(kernel_sizes) == len(strides) >= 1:
            raise InputError(
                f"EfficientEncoder: channels={list(channels)}, kernel_sizes={list(kernel_sizes)}, "
                f"strides={list(strides)}: expected one of each for every convolution"
            )
        if min(*channels, *kernel_sizes, *strides, dim, primary_stride, primary_kernel_size or 1) < 1:
            raise InputError(
                "EfficientEncoder: channels, kernel_sizes, strides, dim and primary_*: expected at least 1"
            )
        if channels[-1] % dim:
            raise InputError(
                f"EfficientEncoder: channels end in {channels[-1]}, dim={dim}: expected dim to divide it, "
                "since each channel is one coordinate of a capsule"
            )
        self.in_shape, self.dim = in_shape, dim
        rows, columns = in_shape[-2:]
        layers: list[nn.Module] = []
        for width, out, kernel, stride in zip((in_shape[0], *channels), channels, kernel_sizes, strides, strict=False):
            activation = nn.LeakyReLU(slope) if slope else nn.ReLU()
            layers += [nn.Conv2d(width, out, kernel, stride), activation, NORMS[norm](out)]
            rows, columns = (out_size(n, kernel, stride, "valid") for n in (rows, columns))
        primary = (rows, columns) if primary_kernel_size is None else (primary_kernel_size,) * 2
        if rows < primary[0] or columns < primary[1] or min(rows, columns) < 1:
            raise InputError(
                f"EfficientEncoder: images of {in_shape[-2]}x{in_shape[-1]} leave maps of "
                f"{max(rows, 0)}x{max(columns, 0)} for the primary capsules: "
                "choose smaller kernel_sizes, strides or primary_kernel_size"
            )
        self.features = nn.Sequential(*layers)
        self.primary = nn.Conv2d(channels[-1], channels[-1], primary, primary_stride, groups=channels[-1])
        rows, columns = (out_size(n, k, primary_stride, "valid") for n, k in zip((rows, columns), primary, strict=True))
        self.num_capsules = channels[-1] // dim * rows * columns
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Capsules:
        """See `Encoder.forward`; capsules are ordered by type, row, column."""
        maps = self.primary(self.features(images))
        return Capsules.from_vectors(exponential_squash(capsules_of_maps(maps, self.dim)))
