"""Images with the boxes of what is in them and of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from capsule_lightning.figures.plain_text import PlainTextFigure
from capsule_lightning.figures.tiles import as_array

COLUMNS = 6
RIGHT, WRONG = "#1a9850", "#d73027"


class DrawnBoxes(NamedTuple):
    """Boxes of an image.

    Attributes:
        edges: ``(N, 4)``, left, top, right and bottom edge in pixels.
        names: the N names of their classes, with scores if they have any.
        right: for each whether it is right; None if that is not known.
    """

    edges: Tensor
    names: Sequence[str]
    right: Sequence[bool] | None = None


class ImageRow(NamedTuple):
    """An image with its truth and what was found.

    Attributes:
        picture: ``(C, H, W)`` in [0, 1].
        truth: objects, those that were missed marked as not right; None if they are not known.
        found: boxes that were found.
        caption: of the image.
    """

    picture: Tensor
    truth: DrawnBoxes | None
    found: DrawnBoxes
    caption: str


def boxes_figure(rows: Sequence[ImageRow], title: str) -> Figure:
    """Draw for each image the truth above what was found, six in a row; what is missed or wrong is red.

    Args:
        rows: N images, at least 1.
        title: title of the figure.
    """
    count, layers = len(rows), 2 if any(row.truth is not None for row in rows) else 1
    columns, blocks = min(count, COLUMNS), -(-count // COLUMNS)
    side = 2.1
    figure = PlainTextFigure(figsize=(side * max(columns, 3), side * 1.08 * layers * blocks + 0.6))
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(blocks * layers, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for n, row in enumerate(rows):
        block, column = divmod(n, columns)
        if row.truth is not None:
            top = axes[block * layers][column]
            draw_boxes(top, row.picture, row.truth)
            top.set_title(f"truth: {row.caption}" if row.caption else "truth", fontsize=8, pad=2)
        below = axes[block * layers + layers - 1][column]
        draw_boxes(below, row.picture, row.found)
        below.set_title("found" if layers == 2 else row.caption, fontsize=8, pad=2)
    figure.tight_layout(pad=0.4, rect=(0, 0, 1, 1 - 0.45 / figure.get_figheight()))
    return figure


def draw_boxes(axis: Axes, picture: Tensor, boxes: DrawnBoxes) -> None:
    """Draw an image and boxes on it."""
    rows, columns = picture.shape[-2:]
    axis.imshow(as_array(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=(0, columns, rows, 0))
    right = boxes.right if boxes.right is not None else [True] * len(boxes.names)
    for (left, top, end, bottom), name, good in zip(boxes.edges.tolist(), boxes.names, right, strict=True):
        color = RIGHT if good else WRONG
        axis.add_patch(Rectangle((left, top), end - left, bottom - top, fill=False, edgecolor=color, linewidth=1.2))
        axis.text(
            left, top, name, color="white", fontsize=6, va="bottom", clip_on=True,
            bbox={"facecolor": color, "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
        )  # fmt: skip
    axis.set(xlim=(0, columns), ylim=(rows, 0))
