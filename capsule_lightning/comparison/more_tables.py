"""Tables beside that of a comparison: further metrics with their intervals, and every two groups on the same folds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from capsule_lightning.comparison.formats import format_difference, format_metric
from capsule_lightning.comparison.groups import MISSING, Comparison, Group
from capsule_lightning.comparison.significance import PairedDifference, holm, mean_interval, paired_difference
from capsule_lightning.runs.csv_text import csv_text
from capsule_lightning.runs.files import write_whole

MOST_PAIRS = 15
"""Pairs of groups that are printed; of more, those of the best group are."""


class Pair(NamedTuple):
    """Two groups on the folds that they share.

    Attributes:
        first, second: the groups, the better one first.
        found: their difference.
        holm: the p-value of the corrected test, with regard to the number of pairs, see `holm`.
    """

    first: Group
    second: Group
    found: PairedDifference
    holm: float


def pairs(comparison: Comparison) -> list[Pair]:
    """Return every two groups that have runs of the same seeds and folds, the best first."""
    found = []
    for first, second in itertools.combinations(comparison.groups, 2):
        if first.folds is None or first.folds != second.folds:
            continue
        mine, other = first.by_fold(), second.by_fold()
        difference = paired_difference([mine[key] - other[key] for key in mine if key in other], first.folds)
        if difference is not None:
            found.append((first, second, difference))
    adjusted = holm([each.corrected for *_, each in found])
    return [Pair(*each, p) for each, p in zip(found, adjusted, strict=True)]


def scores_of(group: Group, metric: str) -> list[float]:
    """Return the last value of a metric of each run that has it."""
    return [value for run in group.runs if (value := run.last(metric)) is not None]


def more_tables(comparison: Comparison) -> list[Table]:
    """Return what is shown of the further metrics and of the pairs; a table is left out if it would be empty."""
    made = []
    if comparison.also:
        measured = Table(box=None, padding=(0, 2, 0, 0), title="mean, 95 % interval", title_justify="left")
        measured.add_column("metric", no_wrap=True)
        for group in comparison.groups:
            measured.add_column(comparison.label(group), justify="right", overflow="fold")
        for metric in (comparison.metric, *comparison.also):
            measured.add_row(metric, *(with_interval(group, metric) for group in comparison.groups))
        made.append(measured)
    found = pairs(comparison)
    if len(comparison.groups) > 2 and found:
        title = f"differences in {comparison.metric} on the same seeds and folds"
        paired = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
        for head in ("better", "than", "by", "95 % interval", "p corrected", "p Holm", "p Wilcoxon", "pairs"):
            paired.add_column(head, justify="left" if head in ("better", "than") else "right", no_wrap=True)
        best = comparison.groups[0]
        for pair in found if len(found) <= MOST_PAIRS else [pair for pair in found if pair.first is best]:
            low, high = (
                format_difference(comparison.metric, value, unit=False) for value in (pair.found.low, pair.found.high)
            )
            paired.add_row(
                comparison.label(pair.first),
                comparison.label(pair.second),
                format_difference(comparison.metric, pair.found.value),
                f"{low} to {high}",
                *(f"{p:.2g}" for p in (pair.found.corrected, pair.holm, pair.found.wilcoxon)),
                str(pair.found.pairs),
            )
        made.append(paired)
    return made


def with_interval(group: Group, metric: str) -> str:
    """Return the mean of a metric over the runs of a group, with its interval, as text."""
    scores = scores_of(group, metric)
    if not scores:
        return MISSING
    mean, interval = sum(scores) / len(scores), mean_interval(scores, group.folds)
    told = format_metric(metric, mean)
    if interval is None:
        return told
    low, high = (format_metric(metric, value).removesuffix(" %") for value in interval)
    return f"{told} [{low}, {high}]"


def write_more(comparison: Comparison, folder: Path) -> list[Path]:
    """Write further metrics to ``measures.csv`` and pairs to ``pairs.csv``, as numbers; an empty table is left out.

    Returns:
        The files.

    Raises:
        InputError: a file cannot be written.
    """
    measures: list[Sequence[object]] = []
    metrics = (comparison.metric, *comparison.also) if comparison.also else ()
    for group, metric in itertools.product(comparison.groups, metrics):
        if scores := scores_of(group, metric):
            low, high = mean_interval(scores, group.folds) or (None, None)
            values = " ".join(map(str, scores))
            measures.append((*group.values, metric, len(scores), sum(scores) / len(scores), low, high, values))
    rows: list[Sequence[object]] = [
        (comparison.label(pair.first), comparison.label(pair.second), *pair.found, pair.holm)
        for pair in pairs(comparison)
    ]
    tables: dict[str, list[Sequence[object]]] = {
        "measures.csv": [(*comparison.keys, "metric", "runs", "mean", "low", "high", "values"), *measures],
        "pairs.csv": [("better", "than", *PairedDifference._fields, "holm"), *rows],
    }
    written = [folder / name for name, lines in tables.items() if len(lines) > 1]
    for path in written:
        write_whole(path, csv_text(tables[path.name]), make_folder=True, remedy="choose another --output")
    return written
