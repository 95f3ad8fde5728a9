"""Rows of pictures and maps under headings."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.figures.plain_text import PlainTextFigure
from capsule_lightning.figures.tiles import as_array

TILE = 1.35  # inches
HEAD = 0.5  # for the title and the headings


def grid_figure(
    rows: Sequence[Sequence[Tensor]], headings: Sequence[str], title: str, names: Sequence[str] = ()
) -> Figure:
    """Draw rows of pictures, and of maps whose brightness is a number in [0, 1], with a scale for the maps.

    Args:
        rows: at least one, each with K pictures ``(C, H, W)`` in [0, 1], or maps ``(H, W)`` in [0, 1].
        headings: the K words above the columns.
        title: title of the figure.
        names: of the rows, to their left; empty for none.

    Returns:
        The figure.
    """
    columns, is_map = len(headings), any(cell.ndim == 2 for row in rows for cell in row)
    left, right = (0.9 if names else 0.1), (0.7 if is_map else 0.1)
    width, height = max(TILE * columns + left + right, 4.5), TILE * len(rows) + HEAD + 0.05
    figure = PlainTextFigure(figsize=(width, height))
    figure.suptitle(title, fontsize=12, y=1 - 0.1 / height, va="top")
    seen = None
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            place = (left + c * TILE) / width, 1 - (HEAD + (r + 1) * TILE) / height
            axis = figure.add_axes((*place, 0.95 * TILE / width, 0.95 * TILE / height))
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
            if cell.ndim == 2:
                values = cell.detach().float().cpu().numpy()
                seen = axis.imshow(values, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
            else:
                axis.imshow(as_array(cell), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if r == 0:
                axis.set_title(headings[c], fontsize=8, pad=3)
            if c == 0 and names:
                axis.set_ylabel(names[r], fontsize=8, rotation=0, ha="right", va="center")
    if seen is not None:
        bar = figure.add_axes(((left + columns * TILE + 0.1) / width, 0.1 / height, 0.12 / width, 0.9 * TILE / height))
        figure.colorbar(seen, cax=bar).ax.tick_params(labelsize=7)
    return figure
