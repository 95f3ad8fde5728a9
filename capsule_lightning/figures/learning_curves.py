"""Learning curves of groups of runs as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise

import numpy as np
from matplotlib.figure import Figure

from capsule_lightning.figures.plain_text import PlainTextFigure

#: Okabe & Ito (2008), distinct with any kind of color vision; their yellow is too light for a line on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
STYLES = ("-", "--", ":", "-.")
FONT = 14
SETTLED = 0.25  # share of the run after which every curve lies within the axes


def learning_curves_figure(curves: Mapping[str, Sequence[Mapping[int, float]]], metric: str) -> Figure:
    """Draw the mean over the runs of each group, within a band from their lowest to their highest value.

    The vertical axis leaves out the beginning of the curves, so that their ends can be told apart. Labels stand at the
    ends, in the colors of their lines, and are moved apart if they would touch.

    Args:
        curves: the curves of the runs of each group, by the group's label; a curve is values by step. There is at least
            one group, each with one run or more; steps that not all runs of a group have are left out.
        metric: name of the values; accuracies are drawn in percent.

    Returns:
        The figure.
    """
    scale = 100 if metric.endswith("accuracy") else 1
    # leave room for the labels, however many and however long they are
    longest, height = max(map(len, curves)), max(5.0, 0.32 * len(curves) + 1.4)
    figure = PlainTextFigure(figsize=(7.5 + 0.125 * longest, height), layout="constrained")
    axis = figure.subplots()
    styles = cycle((color, style) for style in STYLES for color in COLORS)
    ends: list[tuple[float, float, str, str]] = []
    settled: list[np.ndarray] = []
    for (label, runs), (color, style) in zip(curves.items(), styles, strict=False):
        steps, values = on_common_steps(runs)
        values = scale * values
        middle = values.mean(axis=0)
        axis.plot(steps, middle, style, color=color, linewidth=2.2, marker="o" if len(steps) == 1 else "")
        axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0)
        ends.append((steps[-1], middle[-1], label, color))
        settled.append(values[:, steps >= SETTLED * steps[-1]].ravel())
    inside = np.concatenate(settled)
    inside = inside[np.isfinite(inside)]
    if inside.size and inside.min() < inside.max():
        margin = 0.06 * (inside.max() - inside.min())
        axis.set_ylim(inside.min() - margin, inside.max() + margin)
    counts = sorted({len(runs) for runs in curves.values()})
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    title = f"mean of {number} runs; band: lowest to highest" if counts[-1] > 1 else "one run each"
    axis.set_title(title, fontsize=FONT, loc="left")
    axis.set_xlabel("training step", fontsize=FONT)
    axis.set_ylabel(f"{metric}{', %' if scale == 100 else ''}", fontsize=FONT)
    axis.tick_params(labelsize=FONT - 1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="0.9")
    axis.margins(x=0)
    bottom, top = axis.get_ylim()
    # a line of text in data units; the axis is about 1.2 inches lower than the figure
    gap = 1.25 * FONT / 72 / (height - 1.2) * (top - bottom)
    places = spread_out([min(max(end[1], bottom), top) for end in ends], gap, top)
    edge = max(end[0] for end in ends)
    for (step, value, label, color), place in zip(ends, places, strict=True):
        axis.annotate(
            label,
            xy=(step, value),
            xytext=(1.05, (place - bottom) / (top - bottom)),
            textcoords="axes fraction",
            va="center",
            fontsize=FONT,
            color=color,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.8,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 0,
            },
        )
    axis.set_xlim(right=edge)
    return figure


def on_common_steps(runs: Sequence[Mapping[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps ``(S)`` that all N runs have, and values ``(N, S)``; if there are none, the first run's."""
    common = sorted(set.intersection(*(set(run) for run in runs)))
    if not common:
        common, runs = sorted(runs[0]), runs[:1]
    return np.array(common), np.array([[run[step] for step in common] for run in runs])


def spread_out(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """Return places for labels in the order of their heights, at least ``gap`` apart and none above ``top``.

    Of equal heights, the first gets the highest place.

    Example:
        >>> spread_out([5.0, 5.0, 1.0], 1.0, 10.0), spread_out([10.0, 10.0], 1.0, 10.0)
        ([6.0, 5.0, 1.0], [10.0, 9.0])
    """
    order = sorted(range(len(heights)), key=lambda n: (heights[n], -n))
    places = list(heights)
    for below, n in pairwise(order):
        places[n] = max(places[n], places[below] + gap)
    ceiling = top
    for n in reversed(order):
        places[n] = min(places[n], ceiling)
        ceiling = places[n] - gap
    return places
