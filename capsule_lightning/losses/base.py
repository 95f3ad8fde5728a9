"""The contract of every classification loss, and the two forms of its targets."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError


class ClassificationLoss(nn.Module, ABC):
    """A number to minimize, from class capsules and labels."""

    @abstractmethod
    def forward(self, capsules: Capsules, targets: Tensor) -> Tensor:
        """Scalar from ``poses (B, J, E), activations (B, J)`` and labels ``(B)`` or multi-hot ``(B, J)``."""

    def at(self, step: int, total_steps: float) -> None:
        """Told before each training step, for losses that change with time.

        Args:
            step: steps of the optimizer so far, 0 before the first.
            total_steps: steps of the whole run; infinite where it has no end.
        """


def multi_hot(targets: Tensor, scores: Tensor) -> Tensor:
    """One where a class is present, zero elsewhere.

    Args:
        targets: class indices ``(B)``, or multi-hot ``(B, J)`` where several classes may be present.
        scores: ``(B, J)``, whose dtype the result has.

    Returns:
        ``(B, J)``.

    Raises:
        InputError: targets that fit neither form.
    """
    if targets.shape == scores.shape[:-1]:
        return F.one_hot(targets.long(), scores.shape[-1]).to(scores.dtype)
    if targets.shape == scores.shape:
        return targets.to(scores.dtype)
    raise InputError(
        f"targets of shape {tuple(targets.shape)}: expected class indices {tuple(scores.shape[:-1])} or "
        f"multi-hot {tuple(scores.shape)}"
    )
