"""Two overlapping digits, separated by the network (Sabour et al. 2017, Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.figures.plain_text import PlainTextFigure
from capsule_lightning.figures.reconstructions import COLUMNS, WRONG

ROW = 3.85  # height of the three images and their captions, in images


def two_digit_figure(
    images: Tensor,
    pictures: Tensor,
    reconstructions: Tensor,
    labels: Sequence[Sequence[str]],
    predictions: Sequence[Sequence[str]],
    confidences: Sequence[Sequence[float]],
    title: str,
) -> Figure:
    """Draw each input above its two digits and their reconstructions, ten in a row, with wrong predictions in red.

    The first digit of a pair is red and the second green; pixels of both are yellow.

    Args:
        images: ``(N, C, H, W)``, N at least 1; values outside [0, 1] are clipped.
        pictures: ``(N, 2, C, H, W)`` in [0, 1], each digit alone.
        reconstructions: the same shape, in [0, 1].
        labels: the two true classes of each of the N.
        predictions: the two predicted classes, each in the place of the label that it is compared with.
        confidences: the lengths of the predicted capsules, in [0, 1].
        title: title of the figure.

    Returns:
        The figure.
    """
    count = len(images)
    rows, columns = -(-count // COLUMNS), min(count, COLUMNS)
    width, height = 1.15 * max(columns, 5) + 0.4, 1.15 * ROW * rows + 0.75
    figure = PlainTextFigure(figsize=(width, height))
    figure.suptitle(title, fontsize=12, y=1 - 0.12 / height, va="top")
    figure.text(0.5, 1 - 0.38 / height, "first digit red, second green, both yellow", fontsize=9, ha="center", va="top")
    axis = figure.add_axes((0.0, 0.0, 1.0, 1 - 0.65 / height))
    axis.set_axis_off()
    for n in range(count):
        row, column = divmod(n, COLUMNS)
        top = ROW * row
        drawn = (_gray(images[n]), two_colors(pictures[n]), two_colors(reconstructions[n]))
        for place, image in enumerate(drawn):
            y = top + 1.04 * place
            extent = (column + 0.02, column + 0.98, y + 0.98, y + 0.02)
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent)
        wrong = set(labels[n]) != set(predictions[n])
        color, weight = (WRONG, "bold") if wrong else ("black", "normal")
        center: dict[str, Any] = {"ha": "center", "fontsize": 9}
        axis.text(column + 0.5, top - 0.03, f"label {', '.join(labels[n])}", va="bottom", **center)
        sure = ", ".join(f"{confidence:.2f}" for confidence in confidences[n])
        below = f"predicted {', '.join(predictions[n])}\n({sure})"
        axis.text(column + 0.5, top + 3.12, below, va="top", color=color, fontweight=weight, **center)
        if column == 0:
            for place, word in enumerate(("input", "two digits", "reconstructed")):
                axis.text(-0.05, top + 0.5 + 1.04 * place, word, ha="right", va="center", rotation=90, fontsize=9)
    # imshow fits the limits to its last image
    axis.set(xlim=(-0.25, columns + 0.1), ylim=(ROW * rows - 0.3, -0.25), aspect="equal")
    return figure


def two_colors(pictures: Tensor) -> np.ndarray:
    """Lay two pictures ``(2, C, H, W)`` in [0, 1] over each other, in red and green: ``(H, W, 3)``."""
    first, second = (_gray(picture) for picture in pictures)
    return np.stack([first, second, np.zeros_like(first)], axis=-1)


def _gray(image: Tensor) -> np.ndarray:
    array: np.ndarray = image.detach().float().cpu().clamp(0, 1).mean(dim=0).numpy()
    return array
