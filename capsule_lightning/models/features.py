"""The heads with which capsules on the same features are compared: a linear layer, an MLP, thresholds for grades."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import FeatureEncoder
from capsule_lightning.encoders.vector import VectorEncoder
from capsule_lightning.errors import require
from capsule_lightning.layers.thresholds import OrderedThresholds
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.cnn import capsules_of_logits


class FeatureNet(CapsuleNet):
    """The mean of each feature over its map, and a linear layer or an MLP: a capsule network without the capsules.

    Without hidden layers this is the linear probe of a frozen backbone. Poses are the logits and activations their
    softmax, as in `BaselineCNN`.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: classes, J.
        encoder: called with ``in_shape``; its features are taken, and its capsules left out.
        hidden: widths of hidden layers with ReLU.
        dropout: dropout rate before the last layer, in [0, 1].
        ordinal: whether the classes are grades, in their order: one score and J - 1 thresholds in place of J logits,
            see `OrderedThresholds`. Poses are then the logarithms of the probabilities; `OrdinalLoss` trains them.

    Raises:
        InputError: a width is below 1, or the rate is outside [0, 1].
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        encoder: Callable[[tuple[int, ...]], FeatureEncoder] = VectorEncoder,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        ordinal: bool = False,
    ) -> None:
        super().__init__(in_shape, num_classes)
        require(min(hidden, default=1) >= 1, f"FeatureNet: hidden={list(hidden)}: expected widths of at least 1")
        require(0 <= dropout <= 1, f"FeatureNet: dropout={dropout}: expected a fraction in [0, 1]")
        self.encoder = encoder(self.in_shape)
        self.encoder.without_capsules()
        widths = [self.encoder.channels, *hidden]
        layers: list[nn.Module] = []
        for width, following in itertools.pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        last = nn.Linear(widths[-1], 1, bias=False) if ordinal else nn.Linear(widths[-1], num_classes)
        self.head = nn.Sequential(*layers, nn.Dropout(dropout), last)
        self.ordinal = ordinal
        self.thresholds = OrderedThresholds(num_classes) if ordinal else None

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        """Return class capsules whose poses ``(B, J, 1)`` are the logits."""
        logits: Tensor = self.head(self.encoder.features(images).mean(dim=(-2, -1)))
        return capsules_of_logits(logits if self.thresholds is None else self.thresholds(logits))
