"""The contract of every network that finds objects, and what their heads share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.resnet import ResidualTrunk
from capsule_lightning.errors import InputError, require

STRIDE = 4
"""Pixels of the image from one cell of the map to the next, R in CenterNet."""
START = 0.1
"""What a detector says of every cell and class before it is trained: most are empty."""
START_LOGIT = -log(1 / START - 1)
"""The same before a sigmoid, -2.19 in CenterNet's code."""


class CenterMaps(NamedTuple):
    """What a detector says about images, cell by cell.

    Attributes:
        presence: ``(B, J, rows, columns)`` in [0, 1], whether the center of an object of a class is in a cell.
        sizes: ``(B, 2, rows, columns)``, width and height in cells of an object whose center is there.
        offsets: ``(B, 2, rows, columns)``, from the left top of the cell to that center, columns first.
        instantiation: the capsules ``poses (B, rows, columns, 1, E)`` that sizes and offsets are read from; None in a
            network without capsules.
    """

    presence: Tensor
    sizes: Tensor
    offsets: Tensor
    instantiation: Capsules | None = None


class Detector(nn.Module, ABC):
    """A network that says for every cell of a map, 4 pixels wide, whether the center of an object is there.

    It is built with ``(in_shape, num_classes)``, both of which the data module states.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: classes of objects, J; one will do.

    Raises:
        InputError: a size is below 1.
    """

    def __init__(self, in_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        require(
            len(in_shape) == 3 and min(in_shape) >= 1,
            f"in_shape={tuple(in_shape)}: expected (channels, rows, columns), each at least 1",
        )
        require(num_classes >= 1, f"num_classes={num_classes}: expected at least 1 class to look for")
        self.in_shape, self.num_classes = tuple(in_shape), num_classes

    @abstractmethod
    def maps(self, images: Tensor) -> CenterMaps:
        """Return the maps, a fourth of the size of images ``(B, C, H, W)``, rounded up."""

    @override
    def forward(self, images: Tensor) -> CenterMaps:
        """Return the maps of images.

        Args:
            images: ``(B, C, H, W)``, any real values, usually in [0, 1].

        Returns:
            Maps of ``ceil(H / 4)`` rows and ``ceil(W / 4)`` columns.

        Raises:
            InputError: the images have another shape than the network was built for.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != self.in_shape:
            raise InputError(
                f"images of shape {tuple(images.shape)}: this network was built for (batch, "
                f"{', '.join(map(str, self.in_shape))}); give it images of that size and number of channels"
            )
        return self.maps(images)


def trunk_to_cells(in_channels: int, stem: int, planes: Sequence[int], blocks: Sequence[int]) -> ResidualTrunk:
    """Return a residual trunk whose first two stages halve the image, so that its places are cells.

    Raises:
        InputError: there are fewer than two stages, or a size is below 1.
    """
    require(len(planes) >= 2, f"planes={list(planes)}: expected at least two stages, each of which halves the image")
    strides = [2, 2] + [1] * (len(planes) - 2)
    return ResidualTrunk(in_channels, stem, list(planes), list(blocks), strides)


class RegressionHead(nn.Module):
    """Width, height and the offset of the center of an object, read from each cell by one linear map.

    Args:
        channels: channels of the maps that it reads.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(channels, 4, 1)
        with torch.no_grad():
            self.linear.bias.copy_(torch.tensor([3.0, 3.0, 0.5, 0.5]))  # type: ignore[union-attr]

    @override
    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return sizes and offsets, both ``(B, 2, rows, columns)`` in float32 or wider, of maps ``(B, C, ...)``."""
        found = self.linear(maps)
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        return found[:, :2], found[:, 2:]
