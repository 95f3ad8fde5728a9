"""The decoder of segmentation networks, which looks at one pixel at a time.

LaLonde & Bagci, Capsules for Object Segmentation, 2018 (arXiv 1804.04241), section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.decoders.base import Decoder, mask, picture
from capsule_lightning.errors import require


class PixelDecoder(Decoder):
    """Class capsules of each pixel, masked by its label, and convolutions of 1x1 with ReLU between them.

    It sees the capsules of all classes but the background, class 0, all zero except that of the label. For one class
    and gray images it has 9,537 parameters, the paper's.

    Args:
        num_classes: class capsules with that of the background, J.
        dim: dimensions of a class capsule, E.
        out_shape: ``(C, H, W)`` of a picture; the number of weights depends on C alone.
        hidden: channels of the hidden layers.

    Raises:
        InputError: there is no class besides the background, or a number of channels is below 1.

    Example:
        >>> decoder = PixelDecoder(2, 16, (1, 512, 512))
        >>> sum(parameter.numel() for parameter in decoder.parameters())
        9537
    """

    def __init__(
        self, num_classes: int, dim: int, out_shape: tuple[int, ...], *, hidden: Sequence[int] = (64, 128)
    ) -> None:
        super().__init__()
        require(num_classes >= 2, f"PixelDecoder: num_classes={num_classes}: expected at least 2, background and one")
        require(min(hidden, default=1) >= 1, f"PixelDecoder: hidden={list(hidden)}: expected at least 1 channel each")
        widths = [(num_classes - 1) * dim, *hidden]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Conv2d(width, following, 1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], out_shape[0], 1))

    @override
    def forward(self, poses: Tensor, labels: Tensor) -> Tensor:
        """Return pictures ``(B, C, H, W)`` in [0, 1] from ``poses (B, H, W, J, E)``, those of ``labels (B, H, W)``.

        A label of 0, or one below 0 that is to be ignored, masks all capsules.
        """
        seen = mask(poses[..., 1:, :], labels - 1).flatten(3).permute(0, 3, 1, 2)
        # of a convolution of 1x1 the memory is the same in any order, and this one needs no copy
        return picture(self.layers(seen.contiguous(memory_format=torch.channels_last)))
