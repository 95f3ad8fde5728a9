"""The contract of every network that finds objects, and what their heads share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.resnet import ResidualTrunk
from capsule_lightning.errors import InputError, require
from capsule_lightning.layers.centers import Boxes, find_boxes
from capsule_lightning.models.base import evaluated

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

    Attributes:
        class_names, reader: see `CapsuleNet`.

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
        self.class_names: Sequence[str] = [str(number) for number in range(num_classes)]
        self.reader: Callable[[Any], Tensor] | None = None

    @torch.no_grad()
    def predict(self, images: Any, batch_size: int = 64, max_boxes: int = 100) -> Boxes:
        """Return the boxes of images, on the CPU.

        Args:
            images: whatever `reader` takes, such as paths of image files, or pixels; the network's input ``(B, C, H,
                W)`` if there is none.
            batch_size: images at a time.
            max_boxes: most boxes of an image.

        Returns:
            ``boxes (B, K, 4)`` in pixels of the network's input, ``scores`` and ``labels (B, K)``, K at most
            ``max_boxes``, best first; the score is 0 where there is none.
        """
        inputs = images if self.reader is None else self.reader(images)
        found = [self.boxes(maps, max_boxes) for maps in evaluated(self, inputs, batch_size)]
        return Boxes(*(torch.cat(each).cpu() for each in zip(*found, strict=True)))

    def boxes(self, maps: CenterMaps, max_boxes: int = 100) -> Boxes:
        """Return the boxes that maps say, within the image."""
        found = find_boxes(maps.presence, maps.sizes, maps.offsets, STRIDE, max_boxes)
        rows, columns = self.in_shape[1:]
        edges = found.boxes.new_tensor([columns, rows, columns, rows])
        return found._replace(boxes=torch.minimum(found.boxes.clamp_min(0), edges))

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
