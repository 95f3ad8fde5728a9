"""The contract of every classification loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from capsule_lightning.capsules import Capsules


class ClassificationLoss(nn.Module, ABC):
    """A number to minimise, from class capsules and labels."""

    @abstractmethod
    def forward(self, capsules: Capsules, targets: Tensor) -> Tensor:
        """Scalar from ``poses (B, J, E), activations (B, J)`` and labels ``(B)`` or multi-hot ``(B, J)``."""
