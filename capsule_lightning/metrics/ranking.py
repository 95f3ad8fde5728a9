"""How well the scores of a class rank its examples before those of all others."""

from __future__ import annotations

import warnings

from torch import Tensor
from torchmetrics.classification import MulticlassAUROC, MulticlassAveragePrecision
from torchmetrics.utilities.data import dim_zero_cat
from typing_extensions import override


class ClassAUROC(MulticlassAUROC):
    """Area under the ROC curve of each class against all others, its mean over the classes.

    For one class it is the probability that an example of it has a higher score than one of the others, where a tie
    counts half. Classes that no example or all examples are of are left out, which torchmetrics' own mean counts as 0;
    0.5, which is chance, if none is left. All scores are kept until the mean is computed.

    Args:
        num_classes: J.

    Source: Hanley & McNeil, The Meaning and Use of the Area under a ROC Curve, Radiology 143 (1982).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="none", validate_args=False)

    @override
    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics states that of the curve
        labels: Tensor = dim_zero_cat(self.target)
        counts = labels.bincount(minlength=self.num_classes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the classes that are left out
            areas = super().compute()
        told = areas[(counts > 0) & (counts < len(labels))]
        return told.mean() if len(told) else areas.new_tensor(0.5)


class ClassAveragePrecision(MulticlassAveragePrecision):
    """Average precision of each class against all others, its mean over the classes that have examples.

    For one class it is ``sum of (R_n - R_(n-1)) P_n`` over the thresholds, with precision P and recall R; examples of
    equal score share a threshold, and nothing is interpolated. All scores are kept until the mean is computed.

    Args:
        num_classes: J.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="none", validate_args=False)

    @override
    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics states that of the curve
        labels: Tensor = dim_zero_cat(self.target)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the classes that are left out
            found = super().compute()
        return found[labels.bincount(minlength=self.num_classes) > 0].mean()
