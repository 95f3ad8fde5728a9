"""Cross-entropy, for networks whose poses are logits."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.losses.base import ClassificationLoss


@full_precision
def logit_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Scalar softmax cross-entropy of ``logits (B, J)`` against class indices ``(B)``, the mean over the batch."""
    return F.cross_entropy(logits, targets)


class CrossEntropyLoss(ClassificationLoss):
    """Softmax cross-entropy of one-dimensional poses, the logits of `BaselineCNN`, against class indices ``(B)``."""

    def forward(self, capsules: Capsules, targets: Tensor) -> Tensor:
        """See `ClassificationLoss.forward`.

        Raises:
            InputError: poses of more than one dimension, or multi-hot targets.
        """
        if targets.ndim != 1:
            raise InputError(
                f"targets of shape {tuple(targets.shape)}: CrossEntropyLoss expects one class index an image"
            )
        if capsules.poses.shape[-1] != 1:
            raise InputError(
                f"poses of {capsules.poses.shape[-1]} dimensions are no logits: CrossEntropyLoss is for networks with "
                "one logit a class, such as BaselineCNN; use MarginLoss for vector capsules"
            )
        return logit_cross_entropy(capsules.poses.squeeze(-1), targets)
