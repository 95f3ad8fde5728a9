"""Measures that follow from how many examples of each class were taken for each: balanced accuracy, kappa, grades.

Every function takes ``confusion (J, J)``, counts with a row for each true class and a column for each predicted one,
and returns float64. Counts are whole numbers that processes add up, so that the result is exact.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from typing_extensions import override


def sensitivity(confusion: Tensor) -> Tensor:
    """Return of each class the share of its examples that are found, also called recall.

    Args:
        confusion: ``(J, J)``, see the module.

    Returns:
        ``(J)`` in [0, 1]; NaN for a class without examples.

    Example:
        >>> sensitivity(torch.tensor([[3, 1], [0, 2]]))
        tensor([0.7500, 1.0000], dtype=torch.float64)
    """
    counts = confusion.double()
    return counts.diagonal() / counts.sum(dim=1)


def specificity(confusion: Tensor) -> Tensor:
    """Return of each class the share of the examples of all others that are not taken for it.

    Args:
        confusion: ``(J, J)``, see the module.

    Returns:
        ``(J)`` in [0, 1]; NaN for a class that all examples are of.

    Example:
        >>> specificity(torch.tensor([[3, 1], [0, 2]]))
        tensor([1.0000, 0.7500], dtype=torch.float64)
    """
    counts = confusion.double()
    others = counts.sum() - counts.sum(dim=1)
    return 1 - (counts.sum(dim=0) - counts.diagonal()) / others


def balanced_accuracy(confusion: Tensor) -> Tensor:
    """Return the mean of the sensitivities of all classes that have examples.

    Args:
        confusion: ``(J, J)``, see the module.

    Returns:
        Scalar in [0, 1]; one over the number of these classes is chance.

    Source: Brodersen, Ong, Stephan & Buhmann, The Balanced Accuracy and Its Posterior Distribution, ICPR 2010, Eq. 8,
    for two classes.

    Example:
        >>> balanced_accuracy(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
        tensor(0.8750, dtype=torch.float64)
    """
    return sensitivity(confusion).nanmean()


def quadratic_kappa(confusion: Tensor) -> Tensor:
    """Return ``1 - sum of w_ij O_ij / sum of w_ij E_ij`` with ``w_ij = (i - j)^2``, the quadratic weighted kappa.

    O are the counts, and E those expected if predictions were independent of the truth. The classes are grades, in the
    order of their numbers.

    Args:
        confusion: ``(J, J)``, see the module.

    Returns:
        Scalar, at most 1; 0 is chance. If all examples are of one class and are taken for one and the same, the formula
        is 0 / 0, and 0 is returned: nothing tells this from chance.

    Source: Cohen, Weighted Kappa, Psychological Bulletin 70 (1968).

    Example:
        >>> quadratic_kappa(torch.tensor([[3, 0], [0, 2]])), quadratic_kappa(torch.tensor([[5, 0], [0, 0]]))
        (tensor(1., dtype=torch.float64), tensor(0., dtype=torch.float64))
    """
    counts = confusion.double()
    expected = counts.sum(dim=1, keepdim=True) * counts.sum(dim=0) / counts.sum()
    weights = _distances(counts).square()
    chance = (weights * expected).sum()
    return torch.where(chance > 0, 1 - (weights * counts).sum() / chance, 0.0)


def grade_error(confusion: Tensor) -> Tensor:
    """Return the mean distance between predicted and true class number, as of grades.

    Args:
        confusion: ``(J, J)``, see the module.

    Returns:
        Scalar in [0, J - 1], in grades; 0 is best.

    Source: Baccianella, Esuli & Sebastiani, Evaluation Measures for Ordinal Regression, ISDA 2009, Eq. 1.

    Example:
        >>> grade_error(torch.tensor([[3, 0, 1], [0, 0, 0], [0, 0, 0]]))
        tensor(0.5000, dtype=torch.float64)
    """
    counts = confusion.double()
    return (_distances(counts) * counts).sum() / counts.sum()


def _distances(counts: Tensor) -> Tensor:
    """Return ``|i - j|`` for every entry."""
    grades = torch.arange(len(counts), dtype=counts.dtype, device=counts.device)
    return (grades.unsqueeze(1) - grades).abs()


class ConfusionMetric(MulticlassConfusionMatrix):
    """A number that follows from the confusion matrix.

    Args:
        num_classes: J.
    """

    higher_is_better = True

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, validate_args=False)

    @staticmethod
    @abstractmethod
    def formula(confusion: Tensor) -> Tensor:
        """Return a scalar from the counts ``(J, J)``."""

    @override
    def compute(self) -> Tensor:
        counts = self.confmat
        return self.formula(counts.cpu()).float().to(counts.device)  # not every device has float64


class BalancedAccuracy(ConfusionMetric):
    """See `balanced_accuracy`. torchmetrics' macro recall counts 0 for a class without examples that is predicted."""

    formula = staticmethod(balanced_accuracy)


class QuadraticKappa(ConfusionMetric):
    """See `quadratic_kappa`. torchmetrics' weighted kappa is NaN where the formula is 0 / 0."""

    formula = staticmethod(quadratic_kappa)


class GradeError(ConfusionMetric):
    """See `grade_error`."""

    higher_is_better = False
    formula = staticmethod(grade_error)
