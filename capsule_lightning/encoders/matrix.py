"""One convolution, and primary capsules that are linear maps of its features at each position.

Hinton, Sabour & Frosst, Matrix Capsules with EM Routing, ICLR 2018, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import MapEncoder
from capsule_lightning.encoders.sabour import out_size
from capsule_lightning.errors import require
from capsule_lightning.layers.precision import full_precision


class MatrixEncoder(MapEncoder):
    """A convolution with ReLU; at each position, one linear map to poses, another with a sigmoid to activations.

    The defaults are the paper's: 32x32 images give 14x14 positions with 32 capsules each.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        channels: filters of the convolution, A in the paper.
        kernel_size, stride: kernel size and stride of the convolution.
        num_types: capsules at each position, B in the paper.
        dim: dimensions of their poses, 16 for a 4x4 matrix.
        normalize: apply batch normalization to the convolution, to the poses (one mean and variance for all elements of
            a type) and to the activations before their sigmoid, and leave out biases, as in the released code of De
            Sousa Ribeiro et al. 2020 (arXiv 1905.11455).

    Raises:
        InputError: a size is below 1, or the images are too small for the convolution.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        *,
        channels: int = 32,
        kernel_size: int = 5,
        stride: int = 2,
        num_types: int = 32,
        dim: int = 16,
        normalize: bool = False,
    ) -> None:
        require(
            min(channels, kernel_size, stride, num_types, dim) >= 1,
            f"MatrixEncoder: channels={channels}, kernel_size={kernel_size}, stride={stride}, num_types={num_types}, "
            f"dim={dim}: expected at least 1 each",
        )
        rows, columns = (out_size(n, kernel_size, stride, "valid") for n in in_shape[-2:])
        require(
            min(rows, columns) >= 1,
            f"images of {in_shape[-2]}x{in_shape[-1]} are too small for a kernel of {kernel_size}: "
            f"expected at least {kernel_size}x{kernel_size}; choose a smaller kernel_size",
        )
        super().__init__(in_shape, (rows, columns), num_types, dim)

        def conv(width: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(width, out, kernel, stride, bias=not normalize)

        def norm(width: int) -> nn.Module:
            return nn.BatchNorm2d(width) if normalize else nn.Identity()

        self.features = nn.Sequential(conv(in_shape[0], channels, kernel_size, stride), norm(channels), nn.ReLU())
        self.poses = conv(channels, num_types * dim, 1)
        self.pose_norm = nn.BatchNorm3d(num_types) if normalize else nn.Identity()
        self.activations = nn.Sequential(conv(channels, num_types, 1), norm(num_types))

    @override
    def maps(self, images: Tensor) -> Capsules:
        features = self.features(images)
        poses = self.pose_norm(self.poses(features).unflatten(1, (self.num_types, self.dim)))  # (B, A, D, y, x)
        return Capsules(poses.permute(0, 3, 4, 1, 2), sigmoid(self.activations(features).permute(0, 2, 3, 1)))


@full_precision
def sigmoid(logits: Tensor) -> Tensor:
    """Return activations in [0, 1] of logits of any shape, in float32 or wider."""
    return torch.sigmoid(logits)
