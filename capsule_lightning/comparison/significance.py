"""Whether two groups of scores have one mean."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.05
PERMUTATIONS = 20_000  # all divisions of two groups are tried up to here: 7 seeds each have 3,432, 8 each 12,870


class Difference(NamedTuple):
    """What two samples say of the difference of their means.

    Attributes:
        value: mean of the first less that of the second.
        low: of the 95 % confidence interval, Welch's.
        high: of the same.
        welch: two-sided p of Welch's t-test (1947), which does not assume equal variances.
        permutation: two-sided p of the permutation test of the difference of the means, which does not assume normal
            values either.
        exact: every division of the values was tried.
    """

    value: float
    low: float
    high: float
    welch: float
    permutation: float
    exact: bool


def difference(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Test whether two independent samples have one mean; None where either is a single value, or none varies.

    Runs of one seed share their split of the data and little else, so they are not taken in pairs: the signs of five
    pairs cannot make p less than 1/16, while five values against five can make 1/126.
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
    permutation, exact = permuted(first, second)
    return Difference(gap, gap - reach, gap + reach, 2 * float(stdtr(freedom, -abs(gap) / error)), permutation, exact)


def permuted(first: Sequence[float], second: Sequence[float]) -> tuple[float, bool]:
    """Two-sided p of the permutation test of two means: the share of divisions at least as far apart as this one.

    Every division of the values is tried, or as many are drawn as may be tried, with this one among them.

    Returns:
        p, and whether every division was tried.
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
