"""The encoder of DECA: strided convolutions with instance normalization, then primary capsules at each place.

Garau, Bisagno, Brodka & Conci, DECA: Deep Viewpoint-Equivariant Human Pose Estimation Using Capsule Autoencoders, ICCV
2021 (arXiv 2108.08557).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import MapEncoder
from capsule_lightning.encoders.matrix import sigmoid
from capsule_lightning.errors import require


class DECAEncoder(MapEncoder):
    """Convolutions, each with instance normalization and GELU; at each place, linear maps to poses and activations.

    Nothing depends on the other images of a batch but the normalization of poses and activations. The defaults are the
    paper's: 256x256 images give 13x13 places with 16 capsules of 4x4 numbers each; the convolutions have 4,660,416
    parameters on color images, the primary capsules 17,472.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        channels: filters of each convolution.
        kernel_size: of every convolution; odd.
        strides: of each convolution.
        paddings: zeros around the map of each convolution; null for half a kernel.
        num_types: capsules at each place.
        dim: dimensions of their poses.

    Raises:
        InputError: a size is below 1, there is not one of each for every convolution, or the images are too small.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        *,
        channels: Sequence[int] = (64, 128, 256, 64),
        kernel_size: int = 9,
        strides: Sequence[int] = (2, 2, 2, 3),
        paddings: Sequence[int] | None = (4, 4, 4, 7),
        num_types: int = 16,
        dim: int = 16,
    ) -> None:
        paddings = [kernel_size // 2] * len(channels) if paddings is None else paddings
        given = f"channels={list(channels)}, strides={list(strides)}, paddings={list(paddings)}"
        require(
            len(channels) == len(strides) == len(paddings) >= 1,
            f"DECAEncoder: {given}: expected one of each for every convolution",
        )
        require(
            min(*channels, *strides, kernel_size, num_types, dim) >= 1 and min(paddings) >= 0,
            f"DECAEncoder: {given}, kernel_size={kernel_size}, num_types={num_types}, dim={dim}: expected at least 1 "
            "each",
        )
        rows, columns = in_shape[-2:]
        layers: list[nn.Module] = []
        width = in_shape[0]
        for following, stride, padding in zip(channels, strides, paddings, strict=True):
            layers += [
                nn.Conv2d(width, following, kernel_size, stride, padding, bias=False),
                nn.InstanceNorm2d(following),
                nn.GELU(),
            ]
            width = following
            rows, columns = ((n + 2 * padding - kernel_size) // stride + 1 for n in (rows, columns))
        require(
            rows * columns > 1,
            f"DECAEncoder: images of {in_shape[-2]}x{in_shape[-1]} are too small for strides {list(strides)}: there is "
            "no map left to normalize; choose fewer or smaller strides",
        )
        super().__init__(in_shape, (rows, columns), num_types, dim)
        self.features = nn.Sequential(*layers)
        self.primary = nn.Conv2d(width, num_types * (dim + 1), 1, bias=False)
        self.pose_norm, self.score_norm = nn.BatchNorm3d(num_types), nn.BatchNorm2d(num_types)

    @override
    def maps(self, images: Tensor) -> Capsules:
        numbers = self.primary(self.features(images))
        cut = self.num_types * self.dim
        poses = self.pose_norm(numbers[:, :cut].unflatten(1, (self.num_types, self.dim)))  # (B, A, D, y, x)
        scores = self.score_norm(numbers[:, cut:])
        return Capsules(poses.permute(0, 3, 4, 1, 2), sigmoid(scores.permute(0, 2, 3, 1)))
