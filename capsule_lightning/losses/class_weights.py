"""Weights of classes in a loss: stated, or such that all count the same in training."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from capsule_lightning.errors import InputError, require

ClassWeights = Sequence[float] | Literal["balanced"] | None


class ClassWeighted(nn.Module):
    """A loss that may weigh classes.

    Attributes:
        class_weights: ``(J)``, by which the losses of each class are multiplied; None for none, or as long as balanced
            ones are not known. They are no part of a network's weights.
        balanced: whether they follow from the classes of the training examples, see `balance`.
        weights_argument: the argument that states them.
        noun: what is counted of each class, for errors.
    """

    class_weights: Tensor | None
    weights_argument: ClassVar[str] = "class_weights"
    noun: ClassVar[str] = "example"

    def __init__(self) -> None:
        super().__init__()
        self.balanced = False
        self.register_buffer("class_weights", None, persistent=False)

    def weigh(self, class_weights: ClassWeights) -> None:
        """Give each class its weight; a subclass that has such an argument calls it.

        Args:
            class_weights: J numbers above 0; ``balanced`` for those that `balance` will find; None for none.

        Raises:
            InputError: a weight is not above 0 or not finite, or a word is unknown.
        """
        self.balanced = class_weights == "balanced"
        if class_weights is None or class_weights == "balanced":
            return
        numbers = not isinstance(class_weights, str) and all(
            isfinite(weight) and weight > 0 for weight in class_weights
        )
        require(
            numbers and len(class_weights),
            f"{type(self).__name__}: {self.weights_argument}={class_weights!r}: expected a finite number above 0 for "
            "each class, balanced, or null",
        )
        self.class_weights = torch.tensor([float(weight) for weight in class_weights])

    def balance(self, counts: Tensor) -> None:
        """Weigh each class so that all count the same in training, see `weights_of`.

        Args:
            counts: ``(J)``, how many of the N training examples, or pixels, are of each class, N_c.

        Raises:
            InputError: a class has none.
        """
        if not counts.all():
            raise InputError(
                f"{type(self).__name__}: {self.weights_argument}=balanced, and no training {self.noun} is of class "
                f"number {int(counts.argmin())}; give a weight for each class, or null"
            )
        self.class_weights = self.weights_of(counts).float()

    def weights_of(self, counts: Tensor) -> Tensor:
        """Return ``w_c = N / (J N_c)``, whose mean over N is 1.

        Source: King & Zeng, Logistic Regression in Rare Events Data, Political Analysis 9, 2001, for weighting by the
        inverse of what a class makes up of the sample.
        """
        return counts.sum() / (len(counts) * counts)

    def require_classes(self, num_classes: int) -> None:
        """Refuse weights of another number of classes.

        Raises:
            InputError: there are more or fewer.
        """
        weights = self.class_weights
        if weights is not None and len(weights) != num_classes:
            raise InputError(
                f"{type(self).__name__}: {len(weights)} {self.weights_argument} for {num_classes} classes: expected "
                "one for each"
            )
