"""The contract of every classification loss, and the two forms of its targets."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError


class ClassificationLoss(nn.Module, ABC):
    """A loss of class capsules and labels, which training minimizes."""

    @abstractmethod
    def forward(self, capsules: Capsules, targets: Tensor) -> Tensor:
        """Return a scalar from ``poses (B, J, E), activations (B, J)`` and labels ``(B)`` or multi-hot ``(B, J)``."""

    def at(self, step: int, total_steps: float) -> None:
        """Prepare for a training step; the task calls it before each, for losses that change in the course of a run.

        Args:
            step: steps of the optimizer so far, 0 before the first.
            total_steps: steps of the whole run; infinite if it has no end.
        """


def multi_hot(targets: Tensor, scores: Tensor) -> Tensor:
    """Return one for each class that is present and zero for the others.

    Args:
        targets: class indices ``(B)``, or multi-hot ``(B, J)`` if several classes may be present.
        scores: ``(B, J)``, scores of the classes, which set shape and dtype of the result.

    Returns:
        ``(B, J)``.

    Raises:
        InputError: the targets have neither form.
    """
    if targets.shape == scores.shape[:-1]:
        return F.one_hot(targets.long(), scores.shape[-1]).to(scores.dtype)
    if targets.shape == scores.shape:
        return targets.to(scores.dtype)
    raise InputError(
        f"targets of shape {tuple(targets.shape)}: expected class indices {tuple(scores.shape[:-1])} or "
        f"multi-hot {tuple(scores.shape)}"
    )
