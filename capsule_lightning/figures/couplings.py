"""Which children vote for which class: couplings over the input, or child by child if children have no position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.figures.animation import gif
from capsule_lightning.figures.plain_text import PlainTextFigure
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
    """Draw the input under the votes for each class, one row for each iteration.

    A place is red if it gives a class more than the average class, and blue if it gives less. Of more than ten classes,
    the ten that receive most in the last iteration are drawn.

    Args:
        image: ``(C, H, W)`` in [0, 1]; or ``(J, C, H, W)``, one for each column, to show one map of each of J images.
        maps: ``(T, J, rows, columns)``, votes above the average; see `class_routing.vote_maps`.
        class_names: the J names, written above the columns.
        title: title of the figure.
        extent: left, right, bottom and top edge of the map in pixels of the image; None for the whole image.
        iterations: the T numbers of the rows; None for 1 to T.
        full: value that is drawn in full color, beyond which color does not change; None for the largest in ``maps``.

    Returns:
        The figure, T x K axes, each with the input and the map over it.
    """
    iterations = range(1, len(maps) + 1) if iterations is None else iterations
    full = float(maps.abs().max()) if full is None else full
    classes = _busiest(maps)
    images = image.expand(maps.shape[1], *image.shape[-3:])
    height = SIDE * image.shape[-2] / image.shape[-1] * len(maps)
    size = (SIDE * len(classes) + 1.0, height + 0.95)
    figure = PlainTextFigure(figsize=size)
    figure.suptitle(title, fontsize=13, y=1 - 0.1 / size[1], va="top")
    words = f"full red: {full:.3f} votes or more above the average class, full blue: as many below it"
    figure.text(0.5, 1 - 0.36 / size[1], words, fontsize=10, ha="center", va="top")
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
            _overlay(axis, images[j], maps[row, j] / max(full, 1e-12), extent)
            if row == 0:
                axis.set_title(class_names[j], fontsize=11, pad=3)
        grid[row, 0].set_ylabel(f"iteration {iteration}", fontsize=10)
    return figure


def coupling_animation(
    image: Tensor,
    maps: Tensor,
    class_names: Sequence[str],
    title: str,
    extent: Extent | None = None,
    full: float | None = None,
) -> bytes:
    """Return a GIF with a frame for each iteration, 0.8 s each and 2 s the last; arguments as of `coupling_figure`."""
    classes, full = _busiest(maps), float(maps.abs().max()) if full is None else full  # the same in every frame
    names, images = [class_names[j] for j in classes], image.expand(maps.shape[1], *image.shape[-3:])[classes]
    frames = (
        coupling_figure(images, maps[t : t + 1, classes], names, title, extent, [t + 1], full) for t in range(len(maps))
    )
    return gif(frames, [800] * (len(maps) - 1) + [2000])


def child_figure(
    images: Tensor, couplings: Tensor, headings: Sequence[str], class_names: Sequence[str], title: str
) -> Figure:
    """Draw the couplings of each child with each class below the image, for children that see the whole image.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], N at least 1.
        couplings: ``(N, I, J)`` in [0, 1].
        headings: the N headings above the images.
        class_names: the J names.
        title: title of the figure.

    Returns:
        The figure with two rows of axes: the images, and below each its children by classes.
    """
    count, children, classes = couplings.shape
    wide, high = max(0.19 * classes, SIDE), max(0.19 * children, SIDE)
    size = (count * (wide + 0.15) + 1.5, high + SIDE + 1.7)
    figure = PlainTextFigure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=13)
    above, below = figure.subplots(2, count, squeeze=False, height_ratios=(SIDE, high))
    for n in range(count):
        above[n].imshow(as_array(images[n]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        above[n].set_title(headings[n], fontsize=11)
        above[n].set_axis_off()
        shares = couplings[n].detach().float().cpu().numpy()
        drawn = below[n].imshow(shares, cmap="viridis", vmin=0, vmax=float(couplings.max()), aspect="auto")
        below[n].set_xticks(range(classes), class_names, rotation=90 if max(map(len, class_names)) > 2 else 0)
        below[n].set_yticks([])
        below[n].tick_params(length=0, labelsize=9)
    below[0].set_ylabel("child", fontsize=11)
    below[0].set_yticks(range(children), [str(i + 1) for i in range(children)])
    figure.supxlabel("class", fontsize=11)
    figure.colorbar(drawn, ax=below[-1], label="coupling", fraction=0.1)
    return figure


def _busiest(maps: Tensor) -> list[int]:
    """Return the classes that receive most in the last iteration, in their order."""
    most: list[int] = maps[-1].sum(dim=(-2, -1)).topk(min(COLUMNS, maps.shape[1])).indices.tolist()
    return sorted(most)


def _overlay(axis: Axes, image: Tensor, excess: Tensor, extent: Extent | None) -> None:
    rows, columns = image.shape[-2:]
    axis.imshow(as_array(image), cmap="gray", vmin=0, vmax=1, extent=(0, columns, rows, 0), interpolation="nearest")
    share = excess.detach().float().cpu().clamp(-1, 1).numpy()
    colors = np.empty((*share.shape, 4))
    colors[..., :3] = np.where(share[..., None] > 0, RED, BLUE)
    colors[..., 3] = 0.85 * np.abs(share)
    axis.imshow(colors, extent=extent or (0, columns, rows, 0), interpolation="nearest")
    axis.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
