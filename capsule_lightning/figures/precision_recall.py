"""Precision over recall."""

from __future__ import annotations

from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.figures.plain_text import PlainTextFigure


def precision_recall_figure(precision: Tensor, recall: Tensor, title: str) -> Figure:
    """Draw a curve of precision over recall.

    Args:
        precision, recall: ``(F)`` in [0, 1], in ascending order of recall.
        title: of the figure.

    Returns:
        The figure.
    """
    figure = PlainTextFigure(figsize=(5.2, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(recall.tolist(), precision.tolist(), color="#2166ac")
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axis.grid(alpha=0.3)
    axis.set_title(title, fontsize=12)
    return figure
