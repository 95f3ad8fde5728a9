"""Numbers that describe the routing, over the steps of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from capsule_lightning.figures.plain_text import PlainTextFigure


def routing_curves(curves: Mapping[str, Sequence[tuple[int, float]]], title: str) -> Figure:
    """Draw each number in axes of its own, one above the other, over the same steps.

    Args:
        curves: pairs of training step and value, by the name of the value; at least one.
        title: title of the figure.

    Returns:
        The figure, with axes for each curve.
    """
    figure = PlainTextFigure(figsize=(6.4, 1.5 * len(curves) + 1.0), layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, pairs) in zip(axes, curves.items(), strict=True):
        steps, values = zip(*pairs, strict=True)
        axis.plot(steps, values, marker="o", markersize=3, color="#2166ac")
        axis.set_ylabel(name.replace("_", "\n"), fontsize=9)
        axis.grid(alpha=0.3)
        if all(float(value).is_integer() for value in values):
            axis.set_ylim(min(values) - 0.5, max(values) + 0.5)
            axis.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # also if only one fits
    axes[-1].set_xlabel("training step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
