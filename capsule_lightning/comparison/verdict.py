"""Put the result of a comparison into words, with its limits."""

from __future__ import annotations

import math

from capsule_lightning.comparison.formats import format_difference
from capsule_lightning.comparison.groups import Comparison, Group
from capsule_lightning.comparison.significance import LEVEL, PERMUTATIONS, difference, paired_difference

FEWEST = 3
"""Runs of a group of which a spread can be told: an interval from two is wider than all accuracies."""


def verdict(comparison: Comparison) -> str:
    """Return what the runs say about the two best groups, and what they do not say."""
    if len(comparison.groups) < 2:
        return "One group: there is nothing to compare it with."
    best, second, *others = comparison.groups
    names = f"{comparison.label(best)} and {comparison.label(second)}"
    scores = f"{len(best.scores)} and {len(second.scores)} runs"
    paired = of_folds(comparison, best, second)
    found, gap = difference(best.scores, second.scores), format_difference(comparison.metric, best.mean - second.mean)
    if paired is not None:
        said = f"{names} differ by {gap} {paired}"
    elif found is None:
        few = min(len(best.scores), len(second.scores)) < 2
        why = "a single run has no spread to compare the difference with" if few else "no run differs from its group's"
        said = f"{names} differ by {gap} in the mean of {scores}, which is no evidence for either: {why}."
    elif min(len(best.scores), len(second.scores)) < FEWEST:
        said = (
            f"{names} differ by {gap} in the mean of {scores}: two runs say nothing of their spread; train more seeds."
        )
    else:
        low, high = (format_difference(comparison.metric, value, unit=False) for value in (found.low, found.high))
        sure = {True: "more than seeds explain", False: "no more than seeds explain"}
        decisions = [sure[p < LEVEL] for p in (found.welch, found.permutation)]
        judged = decisions[0] if decisions[0] == decisions[1] else "on the border of what seeds explain"
        kind = "exact permutation" if found.exact else f"permutation, {PERMUTATIONS:,} drawn"
        said = (
            f"{names} differ by {gap} in the mean of {scores}, {judged}: 95 % confidence interval {low} to {high}, "
            f"p = {found.welch:.2g} (Welch's t-test) and {found.permutation:.2g} ({kind} test)."
        )
    limits = ["It says nothing of other data or settings than these"]
    if others:
        limits.append(f"p does not allow for these two being the best of {len(comparison.groups)} groups")
    if comparison.pooled:
        said += (
            f"\nRuns of one group also differ in {', '.join(comparison.pooled)}, which is taken for chance here: "
            "compare like with like, or tell them apart by --by."
        )
    return f"{said}\n{'; '.join(limits)}.{sampling_error(comparison)}"


def of_folds(comparison: Comparison, best: Group, second: Group) -> str | None:
    """Return what the same folds say about two groups; None if the groups are not of the same folds."""
    if best.folds is None or best.folds != second.folds:
        return None
    first, other = best.by_fold(), second.by_fold()
    shared = [key for key in first if key in other]
    found = paired_difference([first[key] - other[key] for key in shared], best.folds)
    if found is None:
        return f"in the mean; {len(shared)} of their folds can be compared, which is no evidence for either."
    low, high = (format_difference(comparison.metric, value, unit=False) for value in (found.low, found.high))
    sure = "more than folds and seeds explain" if found.corrected < LEVEL else "no more than folds and seeds explain"
    missing = len(first) + len(other) - 2 * len(shared)
    left_out = f" {missing} runs have no counterpart of the same seed and fold." if missing else ""
    return (
        f"in the mean, {sure}: on the {found.pairs} pairs of one seed and fold "
        f"{format_difference(comparison.metric, found.value)}, 95 % confidence interval {low} to {high}, p = "
        f"{found.corrected:.2g} (t-test corrected for the training examples that folds share) and {found.wilcoxon:.2g} "
        f"(Wilcoxon's, which takes them for independent).{left_out}"
    )


def sampling_error(comparison: Comparison) -> str:
    """Return a sentence on the uncertainty due to the choice of test images; empty if their number is not known.

    It is the standard error of a share p of N independent images, sqrt(p (1 - p) / N).
    """
    counts = {run.test_images for group in comparison.groups[:2] for run in group.runs}
    count = counts.pop()
    folded = comparison.groups[0].folds is not None  # each fold has other images
    if counts or not count or folded or not comparison.metric.endswith("accuracy"):
        return ""
    share = comparison.groups[0].mean
    error = math.sqrt(share * (1 - share) / count)
    return (
        f"\nThe {count:,} test images are themselves a sample: one accuracy of {100 * share:.2f} % on them has a "
        f"standard error of {100 * error:.2f} points, and one image is {100 / count:.2g}."
    )
