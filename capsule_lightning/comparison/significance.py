"""Test whether two groups of scores have the same mean, whether they are independent or of the same folds."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.05
PERMUTATIONS = 20_000  # up to this many, all divisions into two groups are tried: 3,432 for 7 seeds each, 12,870 for 8


class Difference(NamedTuple):
    """Difference between the means of two samples, and how certain it is.

    Attributes:
        value: mean of the first sample minus mean of the second.
        low: lower end of Welch's 95 % confidence interval.
        high: upper end of the same interval.
        welch: two-sided p-value of Welch's t-test (1947), which does not assume equal variances.
        permutation: two-sided p-value of the permutation test of the difference of the means, which does not assume
            normal values either.
        exact: whether the permutation test tried every division of the values.
    """

    value: float
    low: float
    high: float
    welch: float
    permutation: float
    exact: bool


def difference(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Test whether two independent samples have the same mean; None if one is a single value, or neither varies.

    Runs with the same seed share their split of the data and little else, so they are not compared in pairs: the signs
    of five pairs cannot make p smaller than 1/16, while five values against five can reach 1/126.
    """
    from scipy.special import stdtr, stdtrit

    if min(len(first), len(second)) < 2 or len(set(first)) == len(set(second)) == 1:
        return None
    gap = statistics.fmean(first) - statistics.fmean(second)
    variances = [statistics.variance(sample) / len(sample) for sample in (first, second)]
    error = math.sqrt(sum(variances))
    squares = sum(v**2 / (len(sample) - 1) for v, sample in zip(variances, (first, second), strict=True))
    freedom = sum(variances) ** 2 / squares  # Welch (1947), Satterthwaite (1946)
    reach = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    permutation, exact = permutation_test(first, second)
    return Difference(gap, gap - reach, gap + reach, 2 * float(stdtr(freedom, -abs(gap) / error)), permutation, exact)


def permutation_test(first: Sequence[float], second: Sequence[float]) -> tuple[float, bool]:
    """Return the two-sided p-value of the permutation test of two means.

    It is the share of divisions of the values into two groups whose means are at least as far apart as those given.
    All divisions are tried; if there are more than `PERMUTATIONS`, that many are drawn, and the given one is added.

    Returns:
        The p-value, and whether every division was tried.
    """
    values, count = np.array([*first, *second]), len(first)
    exact = math.comb(len(values), count) <= PERMUTATIONS
    if exact:
        chosen = np.array(list(itertools.combinations(range(len(values)), count)))
    else:
        drawn = np.random.default_rng(0).permuted(np.tile(np.arange(len(values)), (PERMUTATIONS, 1)), axis=1)
        chosen = np.concatenate([np.arange(count)[None], drawn[:, :count]])
    sums = values[chosen].sum(axis=1)
    gaps = np.abs(sums / count - (values.sum() - sums) / len(second))
    gap = abs(float(np.mean(first)) - float(np.mean(second)))
    rounding = 1e-12 * float(np.abs(values).max())  # equal gaps are equal whatever the order of their sums
    return float(np.mean(gaps >= gap - rounding)), exact


def mean_interval(scores: Sequence[float], folds: int | None = None) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the mean of scores, of Student's t; None for fewer than two.

    Args:
        scores: of runs of several seeds, or of seeds and folds.
        folds: number of folds, whose shared training examples are allowed for as in `paired_difference`; None if the
            scores are independent.
    """
    from scipy.special import stdtrit

    count = len(scores)
    if count < 2:
        return None
    shared = 0.0 if folds is None else 1 / (folds - 1)
    error = math.sqrt((1 / count + shared) * statistics.variance(scores))
    reach = float(stdtrit(count - 1, 1 - LEVEL / 2)) * error
    mean = statistics.fmean(scores)
    return mean - reach, mean + reach


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values made larger for being several, so that all together are wrong as seldom as one would be.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6, 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    found, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda n: values[n])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        found[place] = largest
    return found


class PairedDifference(NamedTuple):
    """Mean difference of two methods over the same folds, and how certain it is.

    Attributes:
        value: mean of first minus second.
        low: lower end of the 95 % confidence interval.
        high: upper end of the same interval.
        corrected: two-sided p-value of the corrected resampled t-test.
        wilcoxon: two-sided p-value of Wilcoxon's signed-rank test (1945), which takes the pairs for independent.
        pairs: number of pairs.
    """

    value: float
    low: float
    high: float
    corrected: float
    wilcoxon: float
    pairs: int


def paired_difference(gaps: Sequence[float], folds: int) -> PairedDifference | None:
    """Test whether the differences of two methods on the same folds have mean 0; None for one pair, or equal ones.

    Folds share most of their training examples, so their scores are not independent, and the usual paired t-test finds
    differences where there are none. The corrected one takes ``(1/n + 1/(folds - 1)) s^2`` for the variance of the mean
    of n pairs, the second term being the ratio of test to training examples.

    Args:
        gaps: score of the first method less that of the second, for each seed and fold.
        folds: number of folds, at least 2.

    Source: Nadeau & Bengio, Inference for the Generalization Error, Machine Learning 52, 2003, Eq. 5; for several seeds
    Bouckaert & Frank, PAKDD 2004.
    """
    from scipy.special import stdtr, stdtrit
    from scipy.stats import wilcoxon

    count = len(gaps)
    if count < 2 or len(set(gaps)) == 1:
        return None
    gap = statistics.fmean(gaps)
    error = math.sqrt((1 / count + 1 / (folds - 1)) * statistics.variance(gaps))
    reach = float(stdtrit(count - 1, 1 - LEVEL / 2)) * error
    corrected = 2 * float(stdtr(count - 1, -abs(gap) / error))
    return PairedDifference(gap, gap - reach, gap + reach, corrected, float(wilcoxon(gaps).pvalue), count)
