"""The residual network with which capsule networks on the same trunk are compared."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.resnet import ResidualTrunk
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.cnn import capsules_of_logits


class ResNet(CapsuleNet):
    """A residual trunk, the mean of each of its maps, and a linear layer: a capsule network without the capsules.

    The defaults are ResNet-20 with 1x1 convolutions at each change of shape: 272,474 parameters on color images and 10
    classes, the network with a pooling head in the tables of Hahn et al. 2019 (0.3M). ``planes`` can make it as large
    as the network that it is compared with. Poses are the logits and activations their softmax, as in `BaselineCNN`.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: classes, J.
        stem, planes, blocks, strides: see `ResidualTrunk`.

    Raises:
        InputError: a size is below 1, or the lists differ in length.

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2; Hahn, Pyeon & Kim, NeurIPS 2019, section 4.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        stem: int = 16,
        planes: Sequence[int] = (16, 32, 64),
        blocks: Sequence[int] = (3, 3, 3),
        strides: Sequence[int] = (1, 2, 2),
    ) -> None:
        super().__init__(in_shape, num_classes)
        self.trunk = ResidualTrunk(self.in_shape[0], stem, planes, blocks, strides)
        self.head = nn.Linear(self.trunk.channels, num_classes)

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        """Return class capsules whose poses ``(B, J, 1)`` are the logits."""
        return capsules_of_logits(self.head(self.trunk(images).mean(dim=(-2, -1))))
