"""Thresholds on a score, which lie in order and cut it into grades."""

from __future__ import annotations

import itertools
from math import expm1, log

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.errors import require
from capsule_lightning.layers.precision import full_precision


@full_precision
def grade_log_probabilities(logits: Tensor) -> Tensor:
    """Return the logarithms of the probabilities of grades.

    Args:
        logits: ``(B, J - 1)``, descending: of a grade above 0, above 1, ..., above J - 2.

    Returns:
        ``(B, J)``, of ``P(y > k - 1) - P(y > k)``, where each P is the sigmoid of a logit; computed without taking
        numbers close to 1 from each other.
    """
    above, below = F.logsigmoid(logits), F.logsigmoid(-logits)
    between = above[:, :-1] + below[:, 1:] + torch.log1p(-torch.exp(logits[:, 1:] - logits[:, :-1]))
    return torch.cat([below[:, :1], between, above[:, -1:]], dim=1)


class OrderedThresholds(nn.Module):
    """J - 1 thresholds, one below the other, on one score: ``P(y > k) = sigmoid(score + b_k)`` with falling ``b_k``.

    The first is a parameter, and so is how far each lies below the one before it, of which the softplus is taken. So
    the probabilities of being above a grade never rise with the grade. At first all grades are equally probable at a
    score of 0.

    Args:
        num_classes: grades, J, at least 2.

    Raises:
        InputError: there are fewer.

    Source: McCullagh, Regression Models for Ordinal Data, JRSS B 42, 1980, for the model of proportional odds; Cao,
    Mirjalili & Raschka, Rank Consistent Ordinal Regression for Neural Networks, Pattern Recognition Letters 140, 2020
    (arXiv 1901.07884), CORAL, for it as the last layer of a network. Their Theorem 1 has the thresholds in order at the
    optimum of the loss; here they always are.

    Example:
        >>> OrderedThresholds(4)(torch.zeros(1, 1)).exp().detach()
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        require(num_classes >= 2, f"num_classes={num_classes}: expected at least 2 grades")
        equal = [log((num_classes - k) / k) for k in range(1, num_classes)]  # of P(y > k - 1) = 1 - k / J
        gaps = [high - low for high, low in itertools.pairwise(equal)]
        self.first = nn.Parameter(torch.tensor(equal[:1]))
        self.gaps = nn.Parameter(torch.tensor([log(expm1(gap)) for gap in gaps]))

    @override
    def forward(self, scores: Tensor) -> Tensor:
        """Return the logarithms of the probabilities of the grades, ``(B, J)``, of scores ``(B, 1)``."""
        falls = torch.cat([self.first.new_zeros(1), F.softplus(self.gaps).cumsum(dim=0)])
        return grade_log_probabilities(scores + self.first - falls)
