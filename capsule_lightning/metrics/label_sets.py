"""Metrics for images of any number of classes each, none included."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MultilabelAUROC
from torchmetrics.utilities.data import dim_zero_cat
from typing_extensions import override


class _Share(Metric):
    """Share of what is counted that is right.

    Args:
        threshold: score from which on a class is named.
    """

    higher_is_better = True
    full_state_update = False
    right: Tensor
    count: Tensor

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = threshold
        self.add_state("right", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def compute(self) -> Tensor:
        return self.right / self.count


class ExactMatch(_Share):
    """Share of the examples all of whose classes are named, and no other.

    Args:
        threshold: score from which on a class is named.
    """

    @override
    def update(self, scores: Tensor, present: Tensor) -> None:
        """Add scores ``(B, J)`` in [0, 1], and ``(B, J)``, 1 where a class is there and 0 elsewhere."""
        self.right += ((scores >= self.threshold) == present.bool()).all(dim=-1).sum()
        self.count += len(present)


class LabelF1(Metric):
    """``2 PR / (P + R)`` with precision P and recall R, which is ``2 TP / (2 TP + FP + FN)``.

    Args:
        num_classes: J.
        average: ``micro`` counts all classes together; ``macro`` is the mean over the classes that some example has or
            is said to have; ``none`` gives each class ``(J)``, NaN for those left out.
        threshold: score from which on a class is named.
    """

    higher_is_better = True
    full_state_update = False
    both: Tensor
    one: Tensor

    def __init__(self, num_classes: int, average: Literal["micro", "macro", "none"], threshold: float = 0.5) -> None:
        super().__init__()
        self.average, self.threshold = average, threshold
        self.add_state("both", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("one", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, scores: Tensor, present: Tensor) -> None:
        """Add scores ``(B, J)`` in [0, 1], and ``(B, J)``, 1 where a class is there and 0 elsewhere."""
        named, there = scores >= self.threshold, present.bool()
        self.both += (named & there).sum(dim=0)
        self.one += (named ^ there).sum(dim=0)

    @override
    def compute(self) -> Tensor:
        both, one = (2 * self.both).double(), self.one.double()
        if self.average == "micro":
            return (both.sum() / (both + one).sum().clamp_min(1)).float()
        each = (both / (both + one)).float()
        return each.nanmean().nan_to_num() if self.average == "macro" else each


class LabelPrecision(_Share):
    """Share of the classes that are named, of all examples together, that are there; 0 if none is named.

    Args:
        threshold: score from which on a class is named.
    """

    @override
    def update(self, scores: Tensor, present: Tensor) -> None:
        """Add scores ``(B, J)`` in [0, 1], and ``(B, J)``, 1 where a class is there and 0 elsewhere."""
        named, there = scores >= self.threshold, present.bool()
        self.right += (named & there).sum()
        self.count += self.counted(named, there).sum()

    def counted(self, named: Tensor, there: Tensor) -> Tensor:
        """Return those ``(B, J)`` of which the metric is a share."""
        return named

    @override
    def compute(self) -> Tensor:
        return self.right / self.count.clamp_min(1)


class LabelRecall(LabelPrecision):
    """Share of the classes that are there, of all examples together, that are named; 0 if none is there."""

    @override
    def counted(self, named: Tensor, there: Tensor) -> Tensor:
        return there


class LabelAUROC(MultilabelAUROC):
    """Area under the ROC curve of each class: how well its scores rank the examples that have it before all others.

    Classes that no example or all examples have are left out; 0.5, which is chance, if none is left. All scores are
    kept until the mean is computed.

    Args:
        num_classes: J.
        each: give the area of each class ``(J)``, NaN for those left out, in place of their mean.

    Source: Hanley & McNeil, The Meaning and Use of the Area under a ROC Curve, Radiology 143 (1982).
    """

    def __init__(self, num_classes: int, each: bool = False) -> None:
        super().__init__(num_classes, average="none", validate_args=False)
        self.each = each

    @override
    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics states that of the curve
        present: Tensor = dim_zero_cat(self.target)
        counts = present.sum(dim=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the classes that are left out
            areas = super().compute()
        areas = torch.where((counts > 0) & (counts < len(present)), areas, torch.nan)
        if self.each:
            return areas
        told = areas[~areas.isnan()]
        return told.mean() if len(told) else areas.new_tensor(0.5)
