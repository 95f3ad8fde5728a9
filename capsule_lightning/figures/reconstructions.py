"""Inputs above their reconstructions from class capsules (Sabour et al. 2017, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.figures.plain_text import PlainTextFigure
from capsule_lightning.figures.tiles import as_array

COLUMNS = 10
ROW = 2.6  # height of input, reconstruction and their captions, in images
WRONG = "#b2182b"


def reconstruction_figure(
    pictures: Tensor,
    reconstructions: Tensor,
    labels: Sequence[str | None],
    predictions: Sequence[str],
    confidences: Sequence[float],
    title: str,
) -> Figure:
    """Draw pairs of input and reconstruction, ten in a row, with wrong predictions in red.

    Args:
        pictures: ``(N, C, H, W)`` in [0, 1], N at least 1.
        reconstructions: the same shape, in [0, 1].
        labels: the N true classes; None if unknown.
        predictions: the N predicted classes.
        confidences: the N lengths of the predicted capsules, in [0, 1].
        title: title of the figure.

    Returns:
        The figure.
    """
    count = len(pictures)
    rows, columns = -(-count // COLUMNS), min(count, COLUMNS)
    width, height = 1.15 * max(columns, 4) + 0.4, 1.15 * ROW * rows + 0.5
    figure = PlainTextFigure(figsize=(width, height))
    figure.suptitle(title, fontsize=12, y=1 - 0.12 / height, va="top")
    axis = figure.add_axes((0.0, 0.0, 1.0, 1 - 0.45 / height))
    axis.set_axis_off()
    for n in range(count):
        row, column = divmod(n, COLUMNS)
        top = ROW * row
        for image, y in ((pictures[n], top), (reconstructions[n], top + 1.04)):
            axis.imshow(
                as_array(image),
                cmap="gray",
                vmin=0,
                vmax=1,
                interpolation="nearest",
                extent=(column + 0.02, column + 0.98, y + 0.98, y + 0.02),
            )
        wrong = labels[n] is not None and labels[n] != predictions[n]
        color, weight = (WRONG, "bold") if wrong else ("black", "normal")
        center: dict[str, Any] = {"ha": "center", "fontsize": 9}
        if labels[n] is not None:
            axis.text(column + 0.5, top - 0.03, f"label {labels[n]}", va="bottom", **center)
        below = f"{predictions[n]} ({confidences[n]:.2f})"
        axis.text(column + 0.5, top + 2.07, below, va="top", color=color, fontweight=weight, **center)
        if column == 0:
            for word, y in (("input", top + 0.5), ("reconstruction", top + 1.54)):
                axis.text(-0.05, y, word, ha="right", va="center", rotation=90, fontsize=9)
    # imshow fits the limits to its last image
    axis.set(xlim=(-0.25, columns + 0.1), ylim=(ROW * rows - 0.2, -0.25), aspect="equal")
    return figure
