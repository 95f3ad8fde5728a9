"""The scores of groups of runs, every single one, with confidence intervals of their means."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from math import sqrt

from matplotlib.figure import Figure
from scipy.special import stdtrit

from capsule_lightning.figures.learning_curves import COLORS, FONT
from capsule_lightning.figures.plain_text import PlainTextFigure

LEVEL = 0.95


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's 95 % confidence interval of the mean of normal values; None for a single value.

    Example:
        >>> low, high = mean_interval([1.0, 2.0, 3.0])
        >>> f"{low:.3f} {high:.3f}"
        '-0.484 4.484'
    """
    count = len(values)
    if count < 2:
        return None
    reach = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * statistics.stdev(values) / sqrt(count)
    mean = statistics.fmean(values)
    return mean - reach, mean + reach


def scores_figure(scores: Mapping[str, Sequence[float]], metric: str) -> Figure:
    """Draw a dot for each run, and for each group the mean within its 95 % confidence interval.

    Groups lie below each other in the given order. Equal values are drawn side by side.

    Args:
        scores: scores of the runs of each group, by the group's label; at least one group, each with one run or more.
        metric: name of the scores; accuracies are drawn in percent.

    Returns:
        The figure.
    """
    scale = 100 if metric.endswith("accuracy") else 1
    figure = PlainTextFigure(figsize=(9.0, 0.75 * len(scores) + 1.5), layout="constrained")
    axis = figure.subplots()
    for row, (label, values) in enumerate(scores.items()):
        color = COLORS[row % len(COLORS)]
        scaled = [scale * value for value in values]
        above = [0.1 * scaled[:n].count(value) for n, value in enumerate(scaled)]
        axis.plot(scaled, [row - 0.12 - up for up in above], "o", color=color, alpha=0.55, markersize=8, label=label)
        interval = mean_interval(scaled)
        if interval is not None:
            axis.plot(interval, (row + 0.17, row + 0.17), color=color, linewidth=3, solid_capstyle="butt")
        axis.plot(statistics.fmean(scaled), row + 0.17, "D", color=color, markersize=9)
    axis.set_yticks(range(len(scores)), list(scores), fontsize=FONT)
    axis.set_ylim(len(scores) - 0.45, -0.75)
    axis.set_xlabel(f"{metric}{', %' if scale == 100 else ''}", fontsize=FONT)
    # above the whole figure: long names leave the axes too narrow for it
    figure.suptitle("dots: runs; diamond and bar: mean, 95 % interval", fontsize=FONT, x=0.01, ha="left")
    axis.tick_params(axis="x", labelsize=FONT - 1)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    return figure
