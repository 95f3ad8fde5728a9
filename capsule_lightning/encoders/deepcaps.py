"""Four cells of convolutional capsules with skip connections: the encoder of DeepCaps.

Rajasegaran, Jayasundara, Jayasekara, Jayasekara, Seneviratne & Rodrigo, DeepCaps: Going Deeper with Capsule Networks,
CVPR 2019 (arXiv 1904.09546), section 3; sizes, initial weights and normalization are those of its released code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import Encoder
from capsule_lightning.encoders.sabour import out_size, same_padding
from capsule_lightning.errors import InputError
from capsule_lightning.layers.routed_maps import RoutedMaps
from capsule_lightning.layers.squash import squash

KERNEL = 3


class DeepCapsEncoder(Encoder):
    """A convolution, and four cells that halve the map; the capsules of the last two cells are the primary ones.

    Defaults are the paper's: 64x64 images give 8 x 8 x 32 + 4 x 4 x 32 = 2560 capsules of 8 dimensions, 28x28 images
    512 + 128 = 640, from 6.8 million parameters. In the last cell the way past the convolutions is the routed layer.

    A capsule of a cell is the sum of two squashed vectors and may be as long as 2; its activation is its length, cut
    at 1.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        channels: filters of the convolution.
        num_types: types of capsules of every cell.
        dims: dimensions of a capsule of each of the four cells; the last two are the same.
        iterations: passes of routing of the last cell.
        scrambled: see `RoutedMaps`.

    Raises:
        InputError: a size or ``iterations`` below 1; ``dims`` that are not as said.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        *,
        channels: int = 128,
        num_types: int = 32,
        dims: Sequence[int] = (4, 8, 8, 8),
        iterations: int = 3,
        scrambled: bool = False,
    ) -> None:
        super().__init__()
        if len(dims) != 4 or dims[2] != dims[3]:
            raise InputError(
                f"DeepCapsEncoder: dims={list(dims)}: expected four, the last two the same, since the capsules of both "
                "cells are put together"
            )
        if min(channels, num_types, *dims) < 1:
            raise InputError("DeepCapsEncoder: channels, num_types and dims: expected at least 1")
        self.in_shape, self.dim = in_shape, dims[-1]
        size, sizes = in_shape[-2:], []
        for _ in dims:
            size = tuple(out_size(n, KERNEL, 2, "same") for n in size)
            sizes.append(size)
        self.num_capsules = num_types * sum(rows * columns for rows, columns in sizes[2:])
        self.features = nn.Sequential(
            nn.Conv2d(in_shape[0], channels, KERNEL, padding="same"),
            nn.ReLU(),
            nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01),  # the defaults of the authors' framework
        )
        self.cells = nn.ModuleList()
        width = channels
        for dim in dims[:-1]:
            self.cells.append(Cell(width, num_types, dim))
            width = num_types * dim
        routed = RoutedMaps(num_types, self.dim, num_types, self.dim, iterations=iterations, scrambled=scrambled)
        self.cells.append(Cell(width, num_types, self.dim, routed))

    def forward(self, images: Tensor) -> Capsules:
        """See `Encoder.forward`; the third cell before the fourth, and each ordered by row, column, type.

        So `vote_weights` equal to ``num_types`` in the routing that follows shares the matrices of a type over the
        positions of both maps.
        """
        maps, outputs = self.features(images).unsqueeze(2), []
        for cell in self.cells:
            maps = cell(maps)
            outputs.append(maps)
        poses = torch.cat([maps.permute(0, 3, 4, 1, 2).flatten(1, 3) for maps in outputs[2:]], dim=1)
        capsules = Capsules.from_vectors(poses)
        return Capsules(capsules.poses, capsules.activations.clamp(max=1))


class Cell(nn.Module):
    """A convolution of stride 2, and the sum of what two more make of it and of what goes past them.

    Args:
        channels: coordinates of all capsules at a position of its input.
        num_types: types of capsules that come out.
        dim: their dimensions.
        past: what goes past the two; one convolution where None.
    """

    def __init__(self, channels: int, num_types: int, dim: int, past: nn.Module | None = None) -> None:
        super().__init__()
        width = num_types * dim
        self.down = SquashedConv(channels, num_types, dim, stride=2)
        self.past = SquashedConv(width, num_types, dim) if past is None else past
        self.through = nn.Sequential(SquashedConv(width, num_types, dim), SquashedConv(width, num_types, dim))

    def forward(self, maps: Tensor) -> Tensor:
        """Capsule maps ``(B, I, D, H, W)`` to ``(B, J, E, rows, columns)``, half as large."""
        maps = self.down(maps)
        total: Tensor = self.past(maps) + self.through(maps)
        return total


class SquashedConv(nn.Module):
    """A convolution of all coordinates of all types, without bias, each capsule squashed; no routing.

    The weights begin uniform with variance ``1 / sqrt(their number)``, as in the released code. Smaller ones do not
    work in depth, since a short vector is squashed to its length squared: with the usual start of a convolution, the
    third cell gives zero.

    Args:
        channels: coordinates of all capsules at a position of its input.
        num_types: types of capsules that come out.
        dim: their dimensions.
        stride: of the convolution, whose maps have ``ceil(size / stride)`` rows and columns.
    """

    def __init__(self, channels: int, num_types: int, dim: int, stride: int = 1) -> None:
        super().__init__()
        self.num_types, self.dim = num_types, dim
        self.conv = nn.Conv2d(channels, num_types * dim, KERNEL, stride, bias=False)
        bound = 3**0.5 * self.conv.weight.numel() ** -0.25
        nn.init.uniform_(self.conv.weight, -bound, bound)

    def forward(self, maps: Tensor) -> Tensor:
        """Capsule maps ``(B, I, D, H, W)`` to ``(B, J, E, rows, columns)``, float32 or wider."""
        stride = self.conv.stride[0]
        rows, columns = (same_padding(n, KERNEL, stride) for n in maps.shape[-2:])
        maps = self.conv(F.pad(maps.flatten(1, 2), (*columns, *rows)))
        return squash(maps.reshape(len(maps), self.num_types, self.dim, *maps.shape[2:]), dim=2)
