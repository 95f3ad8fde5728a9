"""The encoder of DeepCaps: four cells of convolutional capsules with skip connections.

Rajasegaran, Jayasundara, Jayasekara, Jayasekara, Seneviratne & Rodrigo, DeepCaps: Going Deeper with Capsule Networks,
CVPR 2019 (arXiv 1904.09546), section 3; sizes, initial weights and normalization are those of its released code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import Encoder
from capsule_lightning.encoders.sabour import out_size, same_padding
from capsule_lightning.errors import require
from capsule_lightning.layers.routed_maps import RoutedMaps
from capsule_lightning.layers.squash import squash

KERNEL = 3


class DeepCapsEncoder(Encoder):
    """A convolution and four cells, each of which halves the map; the capsules of the last two cells are primary.

    The defaults are the paper's: 64x64 images give 8 x 8 x 32 + 4 x 4 x 32 = 2560 capsules of 8 dimensions, 28x28
    images 512 + 128 = 640, with 6.8 million parameters. In the last cell the skip connection is the routed layer.

    A capsule of a cell is the sum of two squashed vectors and may be as long as 2; its activation is its length, cut at
    1.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        channels: filters of the convolution.
        num_types: types of capsules in every cell.
        dims: dimensions of a capsule in each of the four cells; the last two are equal.
        iterations: passes of routing in the last cell.
        scrambled: see `RoutedMaps`.

    Raises:
        InputError: a size or ``iterations`` is below 1, or ``dims`` are not four, the last two of them equal.
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
        require(
            len(dims) == 4 and dims[2] == dims[3],
            f"DeepCapsEncoder: dims={list(dims)}: expected four numbers, the last two equal, because the capsules "
            "of the last two cells are put together",
        )
        require(
            min(channels, num_types, *dims) >= 1,
            f"DeepCapsEncoder: channels={channels}, num_types={num_types}, dims={list(dims)}: expected at least 1 each",
        )
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

    @override
    def forward(self, images: Tensor) -> Capsules:
        """Return the capsules of the third cell, then those of the fourth, each ordered by row, column, type.

        With ``vote_weights`` equal to ``num_types``, the routing that follows therefore shares the matrices of a type
        over the positions of both maps.
        """
        maps, outputs = self.features(images).unsqueeze(2), []
        for cell in self.cells:
            maps = cell(maps)
            outputs.append(maps)
        poses = torch.cat([maps.permute(0, 3, 4, 1, 2).flatten(1, 3) for maps in outputs[2:]], dim=1)
        capsules = Capsules.from_vectors(poses)
        return Capsules(capsules.poses, capsules.activations.clamp(max=1))


class Cell(nn.Module):
    """A convolution of stride 2, then the sum of two more convolutions in a row and of a skip connection past them.

    Args:
        channels: coordinates of all capsules at a position of the input.
        num_types: types of capsules of the output.
        dim: dimensions of a capsule of the output.
        past: layer of the skip connection; None for one convolution.
    """

    def __init__(self, channels: int, num_types: int, dim: int, past: nn.Module | None = None) -> None:
        super().__init__()
        width = num_types * dim
        self.down = SquashedConv(channels, num_types, dim, stride=2)
        self.past = SquashedConv(width, num_types, dim) if past is None else past
        self.through = nn.Sequential(SquashedConv(width, num_types, dim), SquashedConv(width, num_types, dim))

    @override
    def forward(self, maps: Tensor) -> Tensor:
        """Return capsule maps ``(B, J, E, rows, columns)``, half as large as the maps ``(B, I, D, H, W)`` given."""
        maps = self.down(maps)
        total: Tensor = self.past(maps) + self.through(maps)
        return total


class SquashedConv(nn.Module):
    """A convolution without bias over all coordinates of all types, after which each capsule is squashed; no routing.

    The weights start uniform with variance ``1 / sqrt(their number)``, as in the released code. Smaller weights do not
    work in a deep network, because a short vector is squashed to the square of its length: with the usual initial
    weights of a convolution, the output of the third cell is zero.

    Args:
        channels: coordinates of all capsules at a position of the input.
        num_types: types of capsules of the output.
        dim: dimensions of a capsule of the output.
        stride: stride of the convolution, whose maps have ``ceil(size / stride)`` rows and columns.
    """

    def __init__(self, channels: int, num_types: int, dim: int, stride: int = 1) -> None:
        super().__init__()
        self.num_types, self.dim = num_types, dim
        self.conv = nn.Conv2d(channels, num_types * dim, KERNEL, stride, bias=False)
        bound = 3**0.5 * self.conv.weight.numel() ** -0.25
        nn.init.uniform_(self.conv.weight, -bound, bound)

    @override
    def forward(self, maps: Tensor) -> Tensor:
        """Return capsule maps ``(B, J, E, rows, columns)`` of maps ``(B, I, D, H, W)``, in float32 or wider."""
        stride = self.conv.stride[0]
        rows, columns = (same_padding(n, KERNEL, stride) for n in maps.shape[-2:])
        maps = self.conv(F.pad(maps.flatten(1, 2), (*columns, *rows)))
        return squash(maps.reshape(len(maps), self.num_types, self.dim, *maps.shape[2:]), dim=2)
