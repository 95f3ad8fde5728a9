"""The contract of every set of metrics for images of one class each."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from torchmetrics import Metric

from capsule_lightning.errors import require


class Metrics(ABC):
    """What a classification task measures on validation and test images.

    Args:
        num_classes: J, at least 2; stated by the data.

    Raises:
        InputError: fewer than two classes.
    """

    def __init__(self, num_classes: int) -> None:
        require(num_classes >= 2, f"{type(self).__name__}: num_classes={num_classes}: expected at least 2")
        self.num_classes = num_classes

    @abstractmethod
    def make(self) -> dict[str, Metric]:
        """Return new metrics by name, ``accuracy`` among them, by which the best state is selected unless told.

        Each is updated with scores ``(B, J)`` in [0, 1] that sum to 1, as `ClassificationLoss.probabilities` states
        them, and labels ``(B)`` int64; the class of the highest score is the predicted one. Each computes a scalar of
        all examples, the same however they were split into batches and processes. Its ``higher_is_better`` says which
        value is best.
        """

    def by_class(self, confusion: Tensor) -> dict[str, Tensor]:
        """Return measures of single classes by name, logged after a test; none unless overridden.

        Args:
            confusion: ``(J, J)`` float64, how many examples of each class (row) were taken for each (column).

        Returns:
            Each ``(J)``; what is NaN cannot be told and is not logged.
        """
        return {}
