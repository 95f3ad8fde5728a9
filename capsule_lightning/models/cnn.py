"""The convolutional baselines that the papers compare capsule networks with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.models.base import CapsuleNet


class BaselineCNN(CapsuleNet):
    """Convolutions, each with ReLU and optionally with pooling, then dense layers.

    It has the interface of the capsule networks: its poses are the logits, of one dimension each, and its activations
    their softmax, so that it trains with `CrossEntropyLoss` of logits under the same task, metrics and figures.

    It covers three published baselines. Their papers do not state the padding; only zero padding to the same size gives
    their numbers of parameters:

    - MNIST, the defaults: 35,445,522 on 28x28 (Sabour et al. 2017, section 4: 35.4M). The dropout rate is not stated.
    - MultiMNIST: ``channels`` 512, 256; ``kernel_size`` 9, 5; ``pool``; ``hidden`` 1024; no dropout;
      `BinaryCrossEntropyLoss`: 24,563,978 on 36x36 (Sabour et al. 2017, section 6: 24.56M).
    - smallNORB: ``channels`` 32, 64; ``pool``; ``hidden`` 1024: 4,253,349 on 2x32x32 and 5 classes (Hinton et al. 2018,
      section 5: 4.2M). The dropout rate is not stated.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: classes, J.
        channels: filters of the convolutions.
        hidden: widths of the dense layers.
        kernel_size: kernel size of every convolution, or one for each; odd.
        pool: take the largest of every 2x2 pixels after each convolution; an odd row or column is pooled by itself.
        dropout: dropout rate before the last layer, in [0, 1].

    Raises:
        InputError: a size is below 1, there is not one ``kernel_size`` for each of ``channels``, or the rate is outside
            [0, 1].
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        channels: Sequence[int] = (256, 256, 128),
        hidden: Sequence[int] = (328, 192),
        kernel_size: int | Sequence[int] = 5,
        pool: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(in_shape, num_classes)
        kernels = [kernel_size] * len(channels) if isinstance(kernel_size, int) else list(kernel_size)
        require(
            len(kernels) == len(channels),
            f"BaselineCNN: kernel_size={kernels}, channels={list(channels)}: expected one number, or one for each of "
            f"the {len(channels)} convolutions",
        )
        require(
            min((*channels, *hidden, *kernels), default=1) >= 1,
            f"BaselineCNN: channels={list(channels)}, hidden={list(hidden)}, kernel_size={kernels}: expected at least "
            "1 each",
        )
        require(0 <= dropout <= 1, f"BaselineCNN: dropout={dropout}: expected a fraction in [0, 1]")
        layers: list[nn.Module] = []
        width, rows, columns = self.in_shape
        for following, kernel in zip(channels, kernels, strict=True):
            layers += [nn.Conv2d(width, following, kernel, padding="same"), nn.ReLU()]
            width = following
            if pool:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
                rows, columns = -(-rows // 2), -(-columns // 2)
        layers.append(nn.Flatten())
        width *= rows * columns
        for following in hidden:
            layers += [nn.Linear(width, following), nn.ReLU()]
            width = following
        self.layers = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(width, num_classes))

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        """Return class capsules whose poses ``(B, J, 1)`` are the logits."""
        return capsules_of_logits(self.layers(images))


def capsules_of_logits(logits: Tensor) -> Capsules:
    """Return logits ``(B, J)`` as ``poses (B, J, 1)`` and their softmax as ``activations (B, J)``, float32 or wider."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return Capsules(logits.unsqueeze(-1), logits.softmax(dim=-1))
