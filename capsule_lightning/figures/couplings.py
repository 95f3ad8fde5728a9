"""Which place of an image votes for which class: coupling coefficients drawn over the input."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.figures.tiles import as_array

COLUMNS = 10
SIDE = 1.05  # inches of a picture
RED, BLUE = (0.95, 0.2, 0.1), (0.15, 0.45, 1.0)
Extent = tuple[float, float, float, float]


def coupling_figure(
    image: Tensor,
    maps: Tensor,
    class_names: Sequence[str],
    title: str,
    extent: Extent | None = None,
    iterations: Sequence[int] | None = None,
    full: float | None = None,
) -> Figure:
    """Draw the input under the votes for each class, one row an iteration.

    Red where a place gives a class more than the average class, blue where it gives less. Of more than ten classes,
    the ten that receive most in the last iteration are drawn.

    Args:
        image: ``(C, H, W)`` in [0, 1].
        maps: ``(T, J, rows, columns)``, what is given above the average; see `class_routing.vote_maps`.
        class_names: the J names.
        title: of the figure.
        extent: left, right, bottom and top edge of the map in pixels of the image; None for the whole image.
        iterations: the T numbers of the rows; None for 1 to T.
        full: what is drawn in full colour; None for the greatest size in ``maps``.

    Returns:
        The figure, T x K axes, each with the input and over it the map.
    """
    iterations = range(1, len(maps) + 1) if iterations is None else iterations
    full = float(maps.abs().max()) if full is None else full
    classes = _drawn(maps)
    height = SIDE * image.shape[-2] / image.shape[-1] * len(maps)
    size = (SIDE * len(classes) + 1.0, height + 0.95)
    figure = Figure(figsize=size)
    figure.suptitle(title, fontsize=11, y=1 - 0.1 / size[1], va="top")
    words = f"full red: {full:.3f} votes more than the average class, full blue: as much less"
    figure.text(0.5, 1 - 0.36 / size[1], words, fontsize=8, ha="center", va="top")
    grid = figure.subplots(
        len(maps),
        len(classes),
        squeeze=False,
        gridspec_kw={
            "left": 0.9 / size[0],
            "right": 1 - 0.1 / size[0],
            "bottom": 0.1 / size[1],
            "top": 1 - 0.8 / size[1],
            "wspace": 0.04,
            "hspace": 0.04,
        },
    )
    for row, iteration in enumerate(iterations):
        for axis, j in zip(grid[row], classes, strict=True):
            _overlay(axis, image, maps[row, j] / max(full, 1e-12), extent)
            if row == 0:
                axis.set_title(class_names[j], fontsize=9, pad=3)
        grid[row, 0].set_ylabel(f"iteration {iteration}", fontsize=8)
    return figure


def coupling_animation(
    image: Tensor, maps: Tensor, class_names: Sequence[str], title: str, extent: Extent | None = None
) -> bytes:
    """A GIF of one frame an iteration, 0.8 s each and the last for 2 s; arguments as of `coupling_figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    classes, full = _drawn(maps), float(maps.abs().max())  # the same in every frame
    names = [class_names[j] for j in classes]
    frames = []
    for t in range(len(maps)):
        figure = coupling_figure(image, maps[t : t + 1, classes], names, title, extent, [t + 1], full)
        figure.set_dpi(90)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        frames.append(Image.fromarray(pixels[..., :3]).quantize(64))
    file = BytesIO()
    waits = [800] * (len(frames) - 1) + [2000]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=waits, loop=0)
    return file.getvalue()


def _drawn(maps: Tensor) -> list[int]:
    most: list[int] = maps[-1].sum(dim=(-2, -1)).topk(min(COLUMNS, maps.shape[1])).indices.tolist()
    return sorted(most)


def _overlay(axis: Axes, image: Tensor, excess: Tensor, extent: Extent | None) -> None:
    rows, columns = image.shape[-2:]
    axis.imshow(as_array(image), cmap="gray", vmin=0, vmax=1, extent=(0, columns, rows, 0), interpolation="nearest")
    share = excess.detach().float().cpu().clamp(-1, 1).numpy()
    colours = np.empty((*share.shape, 4))
    colours[..., :3] = np.where(share[..., None] > 0, RED, BLUE)
    colours[..., 3] = 0.85 * np.abs(share)
    axis.imshow(colours, extent=extent or (0, columns, rows, 0), interpolation="nearest")
    axis.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
