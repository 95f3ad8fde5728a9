"""Images with the masks of what is in them and of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from capsule_lightning.figures.plain_text import PlainTextFigure
from capsule_lightning.figures.tiles import as_array

COLUMNS = 8
IGNORED = (128, 128, 128)
"""Color of pixels that do not count."""
_STRONG = 0.6  # of a mask on a picture


class MaskRow(NamedTuple):
    """An image with its mask and the one that was found.

    Attributes:
        picture: ``(C, H, W)`` in [0, 1].
        truth: ``(H, W)`` int64, -1 where nothing counts; None if it is not known.
        found: ``(H, W)`` int64.
        caption: of the image.
    """

    picture: Tensor
    truth: Tensor | None
    found: Tensor
    caption: str


def class_colors(count: int) -> np.ndarray:
    """Return a color for the background, black, and for each class, ``(1 + count, 3)`` uint8.

    None of them is gray, which is for pictures. Up to 18 classes have colors of their own; of more, neighbors differ.
    """
    every = np.array(colormaps["tab20"].colors)  # type: ignore[attr-defined]
    strong, light = every[0::2], every[1::2]
    hues = np.concatenate([np.delete(each, 7, axis=0) for each in (strong, light)])
    colors = (255 * hues[np.arange(count) % len(hues)]).round().astype(np.uint8)
    return np.concatenate([np.zeros((1, 3), np.uint8), colors])


def overlay(picture: Tensor, mask: Tensor, count: int) -> np.ndarray:
    """Lay a mask on a picture, in gray so that its colors are those of classes alone.

    Args:
        picture: ``(C, H, W)`` in [0, 1].
        mask: ``(H, W)`` int64; the background lets the picture through, and what is ignored is gray.
        count: number of classes.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    seen = as_array(picture) * 255.0
    gray = (seen if seen.ndim == 2 else seen.mean(axis=-1))[..., None].repeat(3, axis=-1)
    labels = mask.cpu().numpy()
    colors = np.where((labels < 0)[..., None], IGNORED, class_colors(count)[labels.clip(0)])
    covered = np.where(labels == 0, 0.0, _STRONG)[..., None]
    laid: np.ndarray = ((1 - covered) * gray + covered * colors).round().astype(np.uint8)
    return laid


def masks_figure(rows: Sequence[MaskRow], class_names: Sequence[str], title: str) -> Figure:
    """Draw for each image the picture, below it the truth, and below that what was found, eight in a row.

    Args:
        rows: N images, at least 1.
        class_names: names of the classes, without the background.
        title: title of the figure.
    """
    known = any(row.truth is not None for row in rows)
    layers = ["image", "truth", "found"] if known else ["image", "found"]
    count, columns = len(rows), min(len(rows), COLUMNS)
    blocks, side = -(-count // columns), 1.5
    figure = PlainTextFigure(figsize=(side * max(columns, 4) + 0.5, side * 1.18 * len(layers) * blocks + 1.1))
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(blocks * len(layers), columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
    for n, row in enumerate(rows):
        block, column = divmod(n, columns)
        for place, layer in enumerate(layers):
            axis = axes[block * len(layers) + place][column]
            mask = {"truth": row.truth, "found": row.found}.get(layer)
            if layer == "image":
                axis.imshow(as_array(row.picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axis.set_title(row.caption, fontsize=8, pad=2)
            elif mask is not None:
                axis.imshow(overlay(row.picture, mask, len(class_names)), interpolation="nearest")
            if column == 0:
                axis.set_ylabel(layer, fontsize=8)
    figure.tight_layout(pad=0.4, h_pad=0.9, rect=(0, 0.7 / figure.get_figheight(), 1, 1 - 0.3 / figure.get_figheight()))
    figure.legend(handles=_key(rows, class_names), loc="lower center", ncols=10, fontsize=8, frameon=False)
    return figure


def _key(rows: Sequence[MaskRow], class_names: Sequence[str]) -> list[Patch]:
    """The colors of the first 20 classes that are seen, and of what is ignored if any is."""
    masks = [mask for row in rows for mask in (row.truth, row.found) if mask is not None]
    seen = sorted({label for mask in masks for label in np.unique(mask.numpy()).tolist()})
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in class_colors(len(class_names)).tolist()]
    handles = [Patch(color=colors[label], label=class_names[label - 1]) for label in seen if label > 0][:20]
    ignored = [Patch(color="#808080", label="ignored")] if -1 in seen else []
    return handles + ignored
