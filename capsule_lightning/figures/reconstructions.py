"""Inputs above what the network reconstructs from their capsules (Sabour et al. 2017, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

COLUMNS = 10
WRONG = "#b2182b"


def reconstruction_figure(
    pictures: Tensor,
    reconstructions: Tensor,
    labels: Sequence[str | None],
    predictions: Sequence[str],
    confidences: Sequence[float],
    title: str,
) -> Figure:
    """Draw pairs of input and reconstruction, ten a row, wrong predictions in red.

    Args:
        pictures: ``(N, C, H, W)`` in [0, 1], N at least 1.
        reconstructions: the same shape, in [0, 1].
        labels: the N true classes; None where unknown.
        predictions: the N predicted classes.
        confidences: the N lengths of the predicted capsules, in [0, 1].
        title: of the figure.

    Returns:
        The figure.
    """
    count = len(pictures)
    rows, columns = -(-count // COLUMNS), min(count, COLUMNS)
    figure = Figure(figsize=(max(1.15 * columns, 4.0) + 0.9, 2.95 * rows + 0.75), layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_visible(False)
    for n in range(count):
        row, column = divmod(n, COLUMNS)
        above, below = axes[2 * row, column], axes[2 * row + 1, column]
        for axis, image in ((above, pictures[n]), (below, reconstructions[n])):
            axis.set_visible(True)
            axis.imshow(_for_imshow(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        wrong = labels[n] is not None and labels[n] != predictions[n]
        above.set_title("" if labels[n] is None else f"label {labels[n]}", fontsize=9)
        below.set_xlabel(
            f"{predictions[n]}  ({confidences[n]:.2f})",
            fontsize=9,
            color=WRONG if wrong else "black",
            fontweight="bold" if wrong else "normal",
        )
        if column == 0:
            above.set_ylabel("input", fontsize=9)
            below.set_ylabel("reconstruction", fontsize=9)
    return figure


def _for_imshow(image: Tensor) -> np.ndarray:
    array: np.ndarray = image.detach().float().cpu().clamp(0, 1).numpy()
    return array[0] if len(array) == 1 else array[:3].transpose(1, 2, 0)
