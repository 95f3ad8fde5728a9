"""The decoder of the original capsule network: three dense layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.decoders.base import Decoder, mask, picture
from capsule_lightning.errors import require


class DenseDecoder(Decoder):
    """Masked class capsules, dense layers with ReLU, and a sigmoid at each pixel.

    Args:
        num_classes: class capsules, J.
        dim: dimensions of a class capsule, E.
        out_shape: ``(C, H, W)`` of a picture.
        hidden: widths of the hidden layers.

    Raises:
        InputError: a width is below 1.

    Source: Sabour et al. 2017, Figure 2.
    """

    def __init__(
        self, num_classes: int, dim: int, out_shape: tuple[int, ...], *, hidden: Sequence[int] = (512, 1024)
    ) -> None:
        super().__init__()
        require(min(hidden, default=1) >= 1, f"DenseDecoder: hidden={list(hidden)}: expected widths of at least 1")
        self.out_shape = out_shape
        widths = [num_classes * dim, *hidden]
        layers: list[nn.Module] = []
        for width, following in itertools.pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], prod(out_shape)))

    @override
    def forward(self, poses: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.layers(mask(poses, labels).flatten(1))
        return picture(logits).reshape(-1, *self.out_shape)

    @override
    def steps(self) -> list[nn.Module]:
        return [*self.layers, nn.Sigmoid()]
