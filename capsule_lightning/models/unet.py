"""U-Net, the network that segmentation by capsules is compared with.

Ronneberger, Fischer & Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015 (arXiv
1505.04597).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require, require_one_of
from capsule_lightning.models.cnn import capsules_of_logits
from capsule_lightning.models.segmentation import SegmentationNet

Norm = Literal["batch", "none"]


class UNet(SegmentationNet):
    """Convolutions on ever smaller maps, and back, with what is lost by the way added from the way down.

    It has the interface of the capsule networks: its poses are the logits, of one dimension each, and its activations
    their softmax. ``parameters`` makes it as large as the network that it is compared with. At each size there are two
    convolutions of 3x3 with ReLU; maps become smaller by taking the largest of 2x2 pixels, and larger by a transposed
    convolution of 2x2. With ``norm: none`` and ``width: 64`` it has the paper's layers, 31,030,658 parameters for gray
    images and two classes, but keeps the size of maps.

    Args:
        in_shape: ``(C, H, W)`` of one image, of at least ``2^depth`` rows and columns.
        num_classes: classes with the background, J.
        width: channels on maps of the full size, which double with every halving of the map.
        parameters: how many parameters to have, as nearly as whole numbers of channels allow, in place of ``width``;
            null for ``width``.
        depth: how often maps are halved.
        norm: ``batch``, to normalize after each convolution of 3x3, as U-Nets of today do; ``none``, as in the paper.

    Raises:
        InputError: a number is below 1, the image is too small for ``depth``, ``parameters`` is less than a network of
            one channel has, or ``norm`` is unknown.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: int = 64,
        parameters: int | None = None,
        depth: int = 4,
        norm: Norm = "batch",
    ) -> None:
        super().__init__(in_shape, num_classes)
        require(min(width, depth) >= 1, f"UNet: width={width}, depth={depth}: expected at least 1 each")
        require_one_of("UNet: norm", norm, ("batch", "none"))
        rows, columns = self.in_shape[1:]
        require(
            min(rows, columns) >= 2**depth,
            f"UNet: depth={depth} on images of {rows}x{columns}: expected at least {2**depth} rows and columns; choose "
            "a smaller depth",
        )
        ends = self.in_shape[0], num_classes
        if parameters is None:
            channels = tuple(width * 2**level for level in range(depth + 1))
        else:
            channels = _channels_for(parameters, depth, norm == "batch", *ends)
        self.down, self.up, self.merge, self.head = _layers(channels, norm == "batch", *ends)
        self.pool = nn.MaxPool2d(2)

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        """Return class capsules whose poses ``(B, H, W, J, 1)`` are the logits."""
        maps, earlier = images, []
        for number, layers in enumerate(self.down):
            maps = layers(maps if number == 0 else self.pool(maps))
            earlier.append(maps)
        for larger, merge, before in zip(self.up, self.merge, earlier[-2::-1], strict=True):
            # an odd row or column is lost in pooling, and repeated here
            missing = (n - 2 * m for n, m in zip(before.shape[2:], maps.shape[2:], strict=True))
            bottom, right = missing
            grown = nn.functional.pad(larger(maps), (0, right, 0, bottom), mode="replicate")
            maps = merge(torch.cat([before, grown], dim=1))
        return capsules_of_logits(self.head(maps).permute(0, 2, 3, 1))


class Layers(NamedTuple):
    """The layers of a network.

    Attributes:
        down: those of each size, on the way down.
        up: those that double rows and columns.
        merge: those that follow each of these.
        head: logits from the last map.
    """

    down: nn.ModuleList
    up: nn.ModuleList
    merge: nn.ModuleList
    head: nn.Conv2d


def _layers(channels: tuple[int, ...], norm: bool, num_in: int, num_classes: int) -> Layers:
    """Return the layers of a network with these channels at each size."""

    def block(width: int, following: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for before in (width, following):
            layers += [nn.Conv2d(before, following, 3, padding=1, bias=not norm)]
            layers += [nn.BatchNorm2d(following), nn.ReLU()] if norm else [nn.ReLU()]
        return nn.Sequential(*layers)

    pairs = list(pairwise(channels))[::-1]
    return Layers(
        down=nn.ModuleList(block(*pair) for pair in pairwise((num_in, *channels))),
        up=nn.ModuleList(nn.ConvTranspose2d(deep, wide, 2, stride=2) for wide, deep in pairs),
        merge=nn.ModuleList(block(2 * wide, wide) for wide, _ in pairs),
        head=nn.Conv2d(channels[0], num_classes, 1),
    )


def _count(channels: tuple[int, ...], norm: bool, num_in: int, num_classes: int) -> int:
    """Return how many parameters `_layers` have."""

    def block(width: int, following: int) -> int:
        return 9 * (width + following) * following + (4 if norm else 2) * following

    pairs = list(pairwise(channels))
    down = sum(block(*pair) for pair in ((num_in, channels[0]), *pairs))
    up = sum(4 * deep * wide + wide + block(2 * wide, wide) for wide, deep in pairs)
    return down + up + (channels[0] + 1) * num_classes


def _channels_for(parameters: int, depth: int, norm: bool, num_in: int, num_classes: int) -> tuple[int, ...]:
    """Return the channels with which a network has nearest to so many parameters."""

    def count(channels: tuple[int, ...]) -> int:
        return _count(channels, norm, num_in, num_classes)

    def scaled(width: float) -> tuple[int, ...]:
        return tuple(max(1, round(width * 2**level)) for level in range(depth + 1))

    least = count(scaled(1))
    require(
        parameters >= least,
        f"UNet: parameters={parameters}: expected at least the {least} of a network of depth {depth} with 1 channel; "
        "choose a smaller depth",
    )
    low, high = 1.0, 2.0
    while count(scaled(high)) < parameters:
        low, high = high, 2 * high
    for _ in range(30):  # halving the interval
        middle = (low + high) / 2
        low, high = (middle, high) if count(scaled(middle)) < parameters else (low, middle)
    return min(scaled(low), scaled(high), key=lambda channels: abs(count(channels) - parameters))
