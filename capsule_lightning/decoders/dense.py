"""The three dense layers of the original capsule network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from capsule_lightning.decoders.base import Decoder, mask, picture
from capsule_lightning.errors import InputError


class DenseDecoder(Decoder):
    """Masked class capsules, dense layers with ReLU, and a sigmoid for each pixel.

    Args:
        num_classes: class capsules, J.
        dim: their dimensions, E.
        out_shape: ``(C, H, W)`` of a picture.
        hidden: widths of the hidden layers.

    Raises:
        InputError: a width below 1.

    Source: Sabour et al. 2017, Figure 2.
    """

    def __init__(
        self, num_classes: int, dim: int, out_shape: tuple[int, ...], *, hidden: Sequence[int] = (512, 1024)
    ) -> None:
        super().__init__()
        if min(hidden, default=1) < 1:
            raise InputError(f"DenseDecoder: hidden={list(hidden)}: expected widths of at least 1")
        self.out_shape = out_shape
        widths = [num_classes * dim, *hidden]
        layers: list[nn.Module] = []
        for width, following in itertools.pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], prod(out_shape)))

    def forward(self, poses: Tensor, labels: Tensor) -> Tensor:
        """See `Decoder.forward`."""
        logits: Tensor = self.layers(mask(poses, labels).flatten(1))
        return picture(logits).reshape(-1, *self.out_shape)
