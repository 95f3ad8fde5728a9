"""Bodies beside where their joints are and where a network says they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.figures.plain_text import PlainTextFigure
from capsule_lightning.figures.tiles import as_array

COLUMNS = 8
TILE = 1.5  # inches
COLORS = {"right": "#e66101", "left": "#2c7fb8", "": "#33a02c"}
"""Of the bones of each side of the body, and of its middle."""
FAINT = "0.65"
REACH = 1.2  # meters that a view of a body in space shows on each side


class JointPicture(NamedTuple):
    """An image and its joints.

    Attributes:
        picture: ``(C, H, W)`` in [0, 1].
        joints: ``(K, D)`` as predicted, in pixels or meters.
        truth: ``(K, D)``; NaN where it is not known.
        depth: ``(1, H, W)`` in [0, 1], the reconstructed depth map; None without one.
        caption: such as how far the joints are from the truth.
    """

    picture: Tensor
    joints: Tensor
    truth: Tensor
    depth: Tensor | None
    caption: str


def joint_figure(
    rows: Sequence[JointPicture], names: Sequence[str], bones: Sequence[tuple[int, int]], title: str
) -> Figure:
    """Draw images, eight in a row, above the true and the predicted joints; the right side of the body is orange.

    Joints in pixels are drawn onto the image. Joints in meters are drawn from the camera and from the side, the truth
    in gray behind them.

    Args:
        rows: at least one.
        names: of the K joints.
        bones: pairs of joints that are joined by a line.
        title: title of the figure.

    Returns:
        The figure.
    """
    views = _views(rows[0])
    if all(bool(row.truth.isnan().all()) for row in rows):
        views.pop("truth", None)
    bands, columns = -(-len(rows) // COLUMNS), min(len(rows), COLUMNS)
    across = max(columns, 3)
    width, height = TILE * across + 0.5, bands * (TILE * len(views) + 0.35) + 0.75
    figure = PlainTextFigure(figsize=(width, height))
    figure.suptitle(title, fontsize=12, y=1 - 0.1 / height, va="top")
    shown = ", ".join(f"{word} side {color}" for word, color in (("right", "orange"), ("left", "blue")))
    figure.text(0.5, 1 - 0.42 / height, shown, ha="center", va="top", fontsize=8, color="0.3")
    for number, row in enumerate(rows):
        band, column = divmod(number, COLUMNS)
        top = 0.65 + band * (TILE * len(views) + 0.35)
        for place, (word, view) in enumerate(views.items()):
            box = ((0.4 + column * TILE) / width, 1 - (top + (place + 1) * TILE) / height)
            axis = figure.add_axes((*box, 0.97 * TILE / width, 0.97 * TILE / height))
            axis.set_xticks([])
            axis.set_yticks([])
            view(axis, row, names, bones)
            if column == 0:
                axis.set_ylabel(word, fontsize=9)
            if place == len(views) - 1:
                axis.set_xlabel(row.caption, fontsize=8)
    return figure


View = Callable[[Axes, JointPicture, Sequence[str], Sequence[tuple[int, int]]], None]
"""Draws one picture of a row; with the names of the joints and the bones."""


def _views(row: JointPicture) -> dict[str, View]:
    """Return what is drawn of each row, one below the other, by the words beside it."""
    views: dict[str, View] = {"image": lambda axis, row, names, bones: _image(axis, row.picture)}
    if row.joints.shape[-1] == 2:
        views |= {"truth": partial(_on_image, "truth"), "prediction": partial(_on_image, "joints")}
    else:
        views |= {"from the camera": partial(_in_space, 0), "from the side": partial(_in_space, 2)}
    if row.depth is not None:
        views["depth"] = _depth
    return views


def _on_image(
    which: str, axis: Axes, row: JointPicture, names: Sequence[str], bones: Sequence[tuple[int, int]]
) -> None:
    _image(axis, row.picture)
    skeleton(axis, getattr(row, which), names, bones)


def _in_space(
    across: int, axis: Axes, row: JointPicture, names: Sequence[str], bones: Sequence[tuple[int, int]]
) -> None:
    axis.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
    skeleton(axis, row.truth[:, [across, 1]], names, bones, FAINT)
    skeleton(axis, row.joints[:, [across, 1]], names, bones)


def _depth(axis: Axes, row: JointPicture, names: Sequence[str], bones: Sequence[tuple[int, int]]) -> None:
    assert row.depth is not None
    _image(axis, row.depth)


def _image(axis: Axes, picture: Tensor) -> None:
    rows, columns = picture.shape[-2:]
    axis.imshow(as_array(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=(0, columns, rows, 0))


def skeleton(
    axis: Axes, joints: Tensor, names: Sequence[str], bones: Sequence[tuple[int, int]], color: str | None = None
) -> None:
    """Draw joints ``(K, 2)`` and the bones between them; what is NaN is left out.

    Args:
        axis: where to draw.
        joints: in the units of the axis.
        names: of the K joints, by which the sides of the body are told apart.
        bones: pairs of joints.
        color: of all bones; None for those of the sides.
    """
    limits = axis.get_xlim(), axis.get_ylim()
    places = joints.detach().float().cpu().numpy()
    for start, end in bones:
        side = next((side for side in ("right", "left") if side in names[start] + names[end]), "")
        pair = places[[start, end]]
        if np.isfinite(pair).all():
            axis.plot(pair[:, 0], pair[:, 1], color=color or COLORS[side], linewidth=1.6, solid_capstyle="round")
    known = places[np.isfinite(places).all(axis=1)]
    axis.plot(known[:, 0], known[:, 1], "o", color=color or "white", markersize=2, markeredgecolor=color or "black")
    axis.set(xlim=limits[0], ylim=limits[1])
