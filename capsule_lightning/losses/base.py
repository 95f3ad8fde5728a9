"""The contract of every classification loss, the two forms of its targets, and the weights of classes and examples."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.losses.class_weights import ClassWeighted


class ClassificationLoss(ClassWeighted, ABC):
    """A loss of class capsules and labels, which training minimizes.

    Attributes:
        class_weights: see `ClassWeighted`; `weighted` multiplies by them.
    """

    of_one_class: ClassVar[bool] = False
    """Whether each example must have exactly one class."""

    @property
    def takes_weights(self) -> bool:
        """Whether examples may have weights; a loss of one's own need not allow it."""
        return "weights" in inspect.signature(self.forward).parameters

    @abstractmethod
    def forward(self, capsules: Capsules, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss of a batch.

        Args:
            capsules: ``poses (B, J, E), activations (B, J)``.
            targets: labels ``(B)``, or multi-hot ``(B, J)``.
            weights: ``(B)``, at least 0, by which the loss of each example is multiplied before the mean is taken over
                all B; None for 1.

        Returns:
            Scalar.
        """

    def presence(self, capsules: Capsules) -> Tensor:
        """Return how sure a network that was trained with this loss is that each class is there, ``(B, J)`` in [0, 1].

        These are the activations, unless a loss overrides it; for images of any number of classes.
        """
        return capsules.activations

    def learned(self) -> dict[str, float]:
        """Return those arguments whose values training has changed, so that whoever loads the network has the same."""
        return {}

    def probabilities(self, activations: Tensor) -> Tensor:
        """Return what a network that was trained with this loss says as probabilities of the classes.

        The order of the classes is that of their activations, so that the predicted class has the highest. A loss that
        is the likelihood of another rule overrides this.

        Args:
            activations: ``(B, J)`` in [0, 1], of the class capsules.

        Returns:
            ``(B, J)`` in [0, 1], rows of which sum to 1; see `normalized_lengths`.
        """
        return normalized_lengths(activations)

    def at(self, step: int, total_steps: float) -> None:
        """Prepare for a training step; the task calls it before each, for losses that change in the course of a run.

        Args:
            step: steps of the optimizer so far, 0 before the first.
            total_steps: steps of the whole run; infinite if it has no end.
        """


def weighted(
    losses: Tensor, targets: Tensor, class_weights: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Return ``u w_y l``: losses of examples, each multiplied by its own weight and by that of its class.

    A loss then takes their mean as without weights, ``sum of u w_y l / B``. So the loss of a data set is the mean of
    the losses of its batches, however they are put together and whatever processes share them; `torch`'s cross-entropy
    divides by the sum of the batch's weights instead.

    Args:
        losses: ``(B)``, or ``(B, J)`` of the terms of each.
        targets: class indices ``(B)``.
        class_weights: ``(J)``, w, above 0; None for 1.
        weights: ``(B)``, u, at least 0; None for 1.

    Raises:
        InputError: there are weights of classes, and targets are not one class index for each example.
    """
    if weights is not None:
        losses = losses * weights.to(losses.dtype).view(-1, *[1] * (losses.ndim - 1))
    if class_weights is None:
        return losses
    if targets.ndim != 1:
        raise InputError(
            f"targets of shape {tuple(targets.shape)}: class_weights expect one class index for each image; "
            "set class_weights to null for images of several classes"
        )
    of_classes = class_weights.to(losses.dtype)[targets.long()]
    return losses * of_classes.view(-1, *[1] * (losses.ndim - 1))


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


def normalized_lengths(activations: Tensor) -> Tensor:
    """Return activations divided by their sum.

    For activations that are a softmax already, or that `activation_cross_entropy` trains, these are the probabilities
    of the likelihood. Margin and spread loss state none: they train lengths toward bounds, one class at a time, and
    these scores of theirs are a rule by which to compare networks, not calibrated probabilities.

    Args:
        activations: ``(B, J)``, at least 0.

    Returns:
        ``(B, J)`` in [0, 1], rows of which sum to 1; float64 where the device has it, so that rounding makes no two
        activations equal. All are ``1 / J`` where all activations are 0.

    Example:
        >>> normalized_lengths(torch.tensor([[0.75, 0.25, 0.25, 0.25], [0.0, 0.0, 0.0, 0.0]]))
        tensor([[0.5000, 0.1667, 0.1667, 0.1667],
                [0.2500, 0.2500, 0.2500, 0.2500]], dtype=torch.float64)
    """
    lengths = widest(activations)
    total = lengths.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, lengths / total, 1 / lengths.shape[-1])


def widest(activations: Tensor) -> Tensor:
    """Return activations in float64; in float32 on Apple's GPUs, which have nothing wider."""
    return activations.to(torch.float32 if activations.device.type == "mps" else torch.float64)
