"""A decoder that draws a depth map from all capsules together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.decoders.base import picture
from capsule_lightning.errors import require


class DepthDecoder(nn.Module):
    """Dense layers with ReLU over the poses of all capsules, and a sigmoid at each pixel.

    Args:
        width: numbers in all capsules together, ``K * E``.
        in_shape: ``(C, H, W)`` of the image, of which the map has rows and columns.
        hidden: widths of the hidden layers.

    Raises:
        InputError: a width is below 1.
    """

    def __init__(self, width: int, in_shape: tuple[int, ...], *, hidden: Sequence[int] = (256,)) -> None:
        super().__init__()
        require(min(hidden, default=1) >= 1, f"depth_hidden={list(hidden)}: expected widths of at least 1")
        self.size = in_shape[-2:]
        widths = [width, *hidden]
        layers: list[nn.Module] = []
        for before, following in itertools.pairwise(widths):
            layers += [nn.Linear(before, following), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], self.size[0] * self.size[1]))

    @override
    def forward(self, poses: Tensor) -> Tensor:
        """Return depth maps ``(B, 1, H, W)`` in [0, 1] of poses ``(B, K, E)``."""
        return picture(self.layers(poses.flatten(1))).view(-1, 1, *self.size)
