"""Metrics for classes that are unequal: of different frequency, cost or grade, as in medicine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from typing_extensions import override

from capsule_lightning.errors import require_one_of
from capsule_lightning.metrics.base import Metrics
from capsule_lightning.metrics.confusion import (
    BalancedAccuracy,
    GradeError,
    QuadraticKappa,
    sensitivity,
    specificity,
)
from capsule_lightning.metrics.probabilities import BrierScore, CalibrationError
from capsule_lightning.metrics.ranking import ClassAUROC, ClassAveragePrecision

Name = Literal[
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "auroc",
    "average_precision",
    "quadratic_kappa",
    "grade_error",
    "calibration_error",
    "brier",
    "sensitivity",
    "specificity",
]

MAKERS: Mapping[str, Callable[[int], Metric]] = {
    "accuracy": lambda classes: MulticlassAccuracy(classes, average="micro"),
    "balanced_accuracy": BalancedAccuracy,
    "macro_f1": lambda classes: MulticlassF1Score(classes, average="macro", validate_args=False),
    "auroc": ClassAUROC,
    "average_precision": ClassAveragePrecision,
    "quadratic_kappa": QuadraticKappa,
    "grade_error": GradeError,
    "calibration_error": lambda classes: CalibrationError(),
    "brier": lambda classes: BrierScore(),
}
"""How each metric is made, by its name; called with the number of classes."""
BY_CLASS: Mapping[str, Callable[[Tensor], Tensor]] = {"sensitivity": sensitivity, "specificity": specificity}
"""Measures of single classes by name, of the confusion matrix."""


class ClassMetrics(Metrics):
    """Metrics by name, in the order in which they are named; the accuracy always is one of them, and the first.

    A class without examples changes none of them to NaN: what is a mean over classes leaves it out.

    Args:
        num_classes: J; stated by the data.
        names: what is measured.

            ``accuracy``: share of the examples whose class is named.
            ``balanced_accuracy``: see `balanced_accuracy`; a class without examples is left out.
            ``macro_f1``: mean over classes of ``2 PR / (P + R)``, with precision P and recall R; a class that has no
            examples is left out unless it is predicted, which counts 0.
            ``auroc``: see `ClassAUROC`; a class without examples is left out.
            ``average_precision``: see `ClassAveragePrecision`; a class without examples is left out.
            ``quadratic_kappa``: see `quadratic_kappa`, for grades; 0 where all is of one class.
            ``grade_error``: see `grade_error`, the mean error in grades.
            ``calibration_error``: see `CalibrationError`.
            ``brier``: see `BrierScore`.
            ``sensitivity``, ``specificity``: of each class, after a test, as ``test/sensitivity/<class name>``; a class
            for which they are 0 / 0 has none.

    Raises:
        InputError: a name is not known.
    """

    def __init__(self, num_classes: int, *, names: Sequence[Name] = get_args(Name)) -> None:
        super().__init__(num_classes)
        for name in names:
            require_one_of("ClassMetrics: names", name, get_args(Name))
        self.names = tuple(dict.fromkeys(("accuracy", *names)))

    @override
    def make(self) -> dict[str, Metric]:
        return {name: MAKERS[name](self.num_classes) for name in self.names if name in MAKERS}

    @override
    def by_class(self, confusion: Tensor) -> dict[str, Tensor]:
        return {name: BY_CLASS[name](confusion) for name in self.names if name in BY_CLASS}
