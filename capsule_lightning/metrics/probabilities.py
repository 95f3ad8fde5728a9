"""How good scores are as probabilities: Brier score and calibration error."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

BINS = 15
"""Bins of the calibration error, as Guo et al. (2017) have them."""


class BrierScore(Metric):
    """``sum of (p_j - y_j)^2`` over all classes, its mean over the examples; y is 1 for the true class and else 0.

    It lies in [0, 2], and 0 is best. For two classes it is twice the value of the formula that counts only one of them.

    Source: Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78 (1950), Eq. 2.

    Example:
        >>> metric = BrierScore()
        >>> metric(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([0, 1]))
        tensor(0.2500)
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add scores ``(B, J)`` and labels ``(B)``."""
        present = torch.nn.functional.one_hot(labels, scores.shape[-1])
        self.total += (scores - present).square().sum()
        self.count += len(labels)

    @override
    def compute(self) -> Tensor:
        return self.total / self.count


class CalibrationError(Metric):
    """Expected calibration error: how far the highest scores are from the share of them that is right.

    ``sum of n_m / n |share right - mean score|`` over 15 bins of the highest score, each of equal width, from its lower
    bound (excluded) to its upper one (included). It lies in [0, 1], and 0 is best. torchmetrics' own has a sixteenth
    bin for scores of exactly 1 and keeps all scores; this one keeps three numbers for each bin.

    Source: Guo, Pleiss, Sun & Weinberger, On Calibration of Modern Neural Networks, ICML 2017 (arXiv 1706.04599),
    Eq. 3.

    Example:
        >>> metric = CalibrationError()
        >>> metric(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
        tensor(0.2500)
    """

    higher_is_better = False
    full_state_update = False
    score: Tensor
    right: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("score", torch.zeros(BINS), dist_reduce_fx="sum")
        self.add_state("right", torch.zeros(BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(BINS, dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add scores ``(B, J)`` and labels ``(B)``."""
        highest, classes = scores.max(dim=-1)
        bounds = torch.arange(1, BINS, device=scores.device) / BINS
        bins = torch.bucketize(highest, bounds.to(highest.dtype))
        self.score.index_add_(0, bins, highest.to(self.score.dtype))
        self.right.index_add_(0, bins, (classes == labels).long())
        self.count.index_add_(0, bins, torch.ones_like(labels))

    @override
    def compute(self) -> Tensor:
        return (self.right - self.score).abs().sum() / self.count.sum()
