"""The convolutional baseline that the capsule network was compared with."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.models.base import CapsuleNet


class BaselineCNN(CapsuleNet):
    """Convolutions of full size, then dense layers: 35,445,522 parameters on MNIST (paper: 35.4M).

    It speaks the language of the capsule networks: its poses are the logits, one dimension each, its activations their
    softmax, so that it trains with `CrossEntropyLoss` on logits under the same task, metrics and figures.

    The paper gives the widths and no padding; only zero padding to the same size has its number of parameters. Its
    dropout rate is not stated: 0.5 here.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: classes, J.
        channels: filters of the convolutions.
        hidden: widths of the dense layers.
        kernel_size: of every convolution, odd.
        dropout: before the last layer, in [0, 1).

    Source: Sabour et al. 2017, section 4, last paragraph.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        channels: Sequence[int] = (256, 256, 128),
        hidden: Sequence[int] = (328, 192),
        kernel_size: int = 5,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(in_shape, num_classes)
        layers: list[nn.Module] = []
        width = self.in_shape[0]
        for following in channels:
            layers += [nn.Conv2d(width, following, kernel_size, padding="same"), nn.ReLU()]
            width = following
        layers.append(nn.Flatten())
        width *= prod(self.in_shape[1:])
        for following in hidden:
            layers += [nn.Linear(width, following), nn.ReLU()]
            width = following
        self.layers = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(width, num_classes))

    def class_capsules(self, images: Tensor) -> Capsules:
        """See `CapsuleNet.class_capsules`; poses ``(B, J, 1)`` are the logits."""
        logits = self.layers(images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return Capsules(logits.unsqueeze(-1), logits.softmax(dim=-1))
