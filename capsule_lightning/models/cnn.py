"""The convolutional baselines that capsule networks were compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.models.base import CapsuleNet


class BaselineCNN(CapsuleNet):
    """Convolutions, each with ReLU and, where asked for, pooling, then dense layers.

    It speaks the language of the capsule networks: its poses are the logits, one dimension each, its activations their
    softmax, so that it trains with `CrossEntropyLoss` on logits under the same task, metrics and figures.

    It is three published baselines. Their papers give no padding; only zero padding to the same size has their numbers
    of parameters:

    - MNIST, the defaults: 35,445,522 on 28x28 (Sabour et al. 2017, section 4: 35.4M). The dropout rate is not stated.
    - MultiMNIST: ``channels`` 512, 256; ``kernel_size`` 9, 5; ``pool``; ``hidden`` 1024; no dropout;
      `BinaryCrossEntropyLoss`: 24,563,978 on 36x36 (Sabour et al. 2017, section 6: 24.56M).
    - smallNORB: ``channels`` 32, 64; ``pool``; ``hidden`` 1024: 4,253,349 on 2x32x32 and 5 classes (Hinton et al.
      2018, section 5: 4.2M). The dropout rate is not stated.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: classes, J.
        channels: filters of the convolutions.
        hidden: widths of the dense layers.
        kernel_size: of every convolution, or one for each; odd.
        pool: whether the largest of every 2x2 pixels follows each convolution; rows or columns left over count too.
        dropout: before the last layer, in [0, 1].

    Raises:
        InputError: a size below 1; not one ``kernel_size`` for each of ``channels``; a rate outside [0, 1].
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
        if len(kernels) != len(channels):
            raise InputError(
                f"BaselineCNN: kernel_size={kernels}, channels={list(channels)}: expected one number, or one for "
                f"each of the {len(channels)} convolutions"
            )
        if min((*channels, *hidden, *kernels), default=1) < 1:
            raise InputError("BaselineCNN: channels, hidden and kernel_size: expected at least 1")
        if not 0 <= dropout <= 1:
            raise InputError(f"BaselineCNN: dropout={dropout}: expected a fraction in [0, 1]")
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

    def class_capsules(self, images: Tensor) -> Capsules:
        """See `CapsuleNet.class_capsules`; poses ``(B, J, 1)`` are the logits."""
        return capsules_of_logits(self.layers(images))


def capsules_of_logits(logits: Tensor) -> Capsules:
    """Logits ``(B, J)`` as ``poses (B, J, 1)``, and their softmax as ``activations (B, J)``, in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return Capsules(logits.unsqueeze(-1), logits.softmax(dim=-1))
