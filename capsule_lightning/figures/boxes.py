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
SIDE = 2.1  # inches of an image
FONT = 6  # points of a name
RIGHT, WRONG = "#1a9850", "#d73027"

Corners = tuple[float, float, float, float]
"""Left, top, right and bottom edge."""


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
    figure = PlainTextFigure(figsize=(SIDE * max(columns, 3), SIDE * 1.08 * layers * blocks + 0.4))
    height = figure.get_figheight()
    figure.suptitle(title, fontsize=12, y=1 - 0.08 / height, va="top").set_in_layout(False)  # it has its room below
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
    figure.tight_layout(pad=0.4, rect=(0, 0, 1, 1 - 0.35 / height))
    return figure


def draw_boxes(axis: Axes, picture: Tensor, boxes: DrawnBoxes) -> None:
    """Draw an image and boxes on it, and their names where they hide no other name, if there is such a place."""
    rows, columns = picture.shape[-2:]
    axis.imshow(as_array(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=(0, columns, rows, 0))
    right = boxes.right if boxes.right is not None else [True] * len(boxes.names)
    point = max(rows, columns) / (72 * SIDE)  # in pixels of the picture
    taken: list[Corners] = []
    for edges, name, good in zip(boxes.edges.tolist(), boxes.names, right, strict=True):
        color, (left, top, end, bottom) = RIGHT if good else WRONG, edges
        axis.add_patch(Rectangle((left, top), end - left, bottom - top, fill=False, edgecolor=color, linewidth=1.2))
        size = (0.65 * FONT * len(name) + 2) * point, (1.25 * FONT + 1) * point
        place = place_of_name(edges, size, (columns, rows), taken)
        taken.append(place)
        axis.text(
            place[0] + point, place[3] - point, name, color="white", fontsize=FONT, va="bottom", clip_on=True, zorder=3,
            bbox={"facecolor": color, "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
        )  # fmt: skip
    axis.set(xlim=(0, columns), ylim=(rows, 0))


def place_of_name(
    box: Sequence[float], size: tuple[float, float], picture: tuple[float, float], taken: Sequence[Corners]
) -> Corners:
    """Return where the name of a box is written: at its corners, within the picture, where it hides least of others.

    Args:
        box: edges of the box.
        size: width and height of the name, in pixels as all numbers here.
        picture: width and height of the picture.
        taken: where other names are.
    """
    left, top, right, bottom = box
    width, height = size
    places = []
    for x, y in (
        *((left, top - height), (left, top), (right - width, top - height), (right - width, top)),
        *((left, bottom), (left, bottom - height), (right - width, bottom), (right - width, bottom - height)),
    ):
        x, y = min(max(x, 0), max(picture[0] - width, 0)), min(max(y, 0), max(picture[1] - height, 0))
        places.append((x, y, x + width, y + height))
    return min(places, key=lambda place: sum(shared(place, other) for other in taken))


def shared(one: Corners, other: Corners) -> float:
    """Return the area that two rectangles share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0) * max(down, 0)
