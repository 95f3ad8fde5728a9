"""What each dimension of a class capsule does to the picture (Sabour et al. 2017, section 5.1, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate

from capsule_lightning.decoders.base import Decoder
from capsule_lightning.figures.animation import gif
from capsule_lightning.figures.plain_text import PlainTextFigure
from capsule_lightning.figures.tiles import as_array, tile

#: The steps of the paper, -0.25 to 0.25 in steps of 0.05.
STEPS = tuple(step / 20 for step in range(-5, 6))
SMALL = 16
"""Pictures with fewer pixels on a side are enlarged smoothly, and what a step changes in them is colored."""
ENLARGED = 8
"""How many times each side of a small picture is enlarged."""
BRIGHTER, DARKER = (0.84, 0.19, 0.15), (0.13, 0.40, 0.67)
FAINTEST = 0.05
"""Change of a pixel that is drawn in full color if no change of the figure is greater."""


def perturb(pose: Tensor, steps: Sequence[float] = STEPS) -> Tensor:
    """Return copies of a pose, each with one dimension moved.

    Args:
        pose: ``(E)``.
        steps: the V amounts that are added.

    Returns:
        ``(E, V, E)``; at ``[e, v]`` is the pose with ``steps[v]`` added to dimension e.

    Source: Sabour et al. 2017, section 5.1.
    """
    moves = torch.as_tensor(steps, dtype=pose.dtype, device=pose.device)
    return pose + moves[:, None] * torch.eye(len(pose), dtype=pose.dtype, device=pose.device)[:, None]


@torch.no_grad()
def class_pictures(decoder: Decoder, poses: Tensor, label: int, num_classes: int) -> Tensor:
    """Decode poses of the capsule of one class, wherever they come from.

    Args:
        decoder: decoder of the network.
        poses: ``(..., E)``, of the capsule of ``label``.
        label: any class, in [0, J).
        num_classes: J.

    Returns:
        ``(..., C, H, W)`` in [0, 1].
    """
    own = poses.flatten(0, -2)
    capsules = own.new_zeros(len(own), num_classes, own.shape[-1])
    capsules[:, label] = own
    pictures: Tensor = decoder(capsules, torch.full((len(own),), label, device=own.device))
    return pictures.view(*poses.shape[:-1], *pictures.shape[1:])


def perturbed_pictures(
    decoder: Decoder, pose: Tensor, label: int, num_classes: int, steps: Sequence[float] = STEPS
) -> Tensor:
    """Decode a pose with one dimension moved at a time.

    Args:
        decoder: decoder of the network.
        pose: ``(E)``, of the capsule of ``label``.
        label: any class, in [0, J).
        num_classes: J.
        steps: the V amounts that are added.

    Returns:
        ``(E, V, C, H, W)`` in [0, 1].
    """
    return class_pictures(decoder, perturb(pose, steps), label, num_classes)


def colored_changes(pictures: Tensor, untouched: int) -> Tensor:
    """Enlarge pictures smoothly, and color what differs from those of one column: red is brighter, blue is darker.

    Full color is the greatest change of all pictures, so that rows can be compared.

    Args:
        pictures: ``(R, V, C, H, W)`` in [0, 1].
        untouched: the column that the others are compared with, in [0, V).

    Returns:
        ``(R, V, 3, 8 H, 8 W)`` in [0, 1].
    """
    gray = pictures.float().mean(dim=2)  # (R, V, H, W)
    large = interpolate(gray, scale_factor=ENLARGED, mode="bicubic", align_corners=False).clamp(0, 1)
    change = large - large[:, untouched : untouched + 1]
    amount = (change.abs() / change.abs().max().clamp(min=FAINTEST)).unsqueeze(2)
    red, blue = (large.new_tensor(color).view(3, 1, 1) for color in (BRIGHTER, DARKER))
    color = torch.where(change.unsqueeze(2) > 0, red, blue)
    return large.unsqueeze(2) * (1 - amount) + color * amount


def perturbation_figure(
    image: Tensor | None,
    pictures: Tensor,
    title: str,
    steps: Sequence[float] = STEPS,
    notes: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
) -> Figure:
    """Draw a row of pictures for each dimension, with the input beside them.

    Small pictures, in which a change is hard to see, are drawn by `colored_changes`.

    Args:
        image: ``(C, H, W)`` in [0, 1], the input; None to leave it out.
        pictures: ``(R, V, C, H, W)`` in [0, 1].
        title: title of the figure.
        steps: the V amounts, written above the columns; the column of 0 is framed.
        notes: a note on each of the R rows, written to its right; None for no notes.
        rows: name of each row, written to its left; None for the number of the dimension, counted from 1.

    Returns:
        The figure; its first axes hold the pictures as one image, its second, if any, the input.
    """
    count, columns = pictures.shape[:2]
    shape = pictures.shape[-2] / pictures.shape[-1]
    side, height = 0.62, 0.62 * shape * count
    names = [str(n + 1) for n in range(count)] if rows is None else rows
    # leave room for the input, and for words in 10 points, about 0.085 inches a letter
    beside = 0.0 if image is None else 1.5
    left = beside + (0.7 if rows is None else 0.2 + 0.085 * max(map(len, names)))
    right = 0.3 + 0.085 * max(map(len, notes or [""]))
    colored = 0 in steps and min(pictures.shape[-2:]) < SMALL
    size = (left + side * columns + right, max(height, 1.2) + (1.1 if colored else 0.95))
    figure = PlainTextFigure(figsize=size)
    figure.suptitle(title, fontsize=13, y=1 - 0.12 / size[1], va="top")
    bottom = (0.3 if colored else 0.15) / size[1]
    axis = figure.add_axes((left / size[0], bottom, side * columns / size[0], height / size[1]))
    edges = (0, columns, count, 0)
    tiles = tile(colored_changes(pictures, steps.index(0)) if colored else pictures)
    if colored:
        note = "red: brighter than the framed picture; blue: darker"
        figure.text(0.5, 0.04 / size[1], note, ha="center", va="bottom", fontsize=9)
    axis.imshow(tiles, cmap="gray", vmin=0, vmax=1, extent=edges, aspect="auto", interpolation="nearest")
    for line in range(1, count):
        axis.axhline(line, color="white", linewidth=2.5)
    for line in range(1, columns):
        axis.axvline(line, color="white", linewidth=1.2)
    if 0 in steps:
        middle = steps.index(0)
        axis.axvspan(middle, middle + 1, fill=False, edgecolor="#f4a582", linewidth=2.5, zorder=3)
    axis.set_xticks([n + 0.5 for n in range(columns)], [f"{step:+.2f}" if step else "0" for step in steps], fontsize=9)
    axis.set_yticks([n + 0.5 for n in range(count)], names, fontsize=10)
    if rows is None:
        axis.set_ylabel("dimension", fontsize=10)
    axis.tick_params(length=0, labelbottom=False, labeltop=True)
    for n, note in enumerate(notes or ()):
        axis.text(columns + 0.15, n + 0.5, note, va="center", fontsize=10)
    if image is not None:
        inset = figure.add_axes((0.15 / size[0], 1 - 2.0 / size[1], 1.2 / size[0], 1.2 / size[1]))
        inset.imshow(as_array(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        inset.set_axis_off()
        inset.set_title("input", fontsize=10)
    return figure


def dial_animation(pictures: Tensor, title: str, rows: Sequence[str], wait: int = 130) -> bytes:
    """Return a GIF of dials that all turn together, from the first amount to the last and back.

    Args:
        pictures: ``(V, R, K, C, H, W)`` in [0, 1], for V amounts, R dials and K images.
        title: title above the dials.
        rows: names of the R dials.
        wait: milliseconds for which each frame stays.
    """
    there_and_back = [*range(len(pictures)), *range(len(pictures) - 2, 0, -1)]
    figures = (_dials(pictures[v], title, rows) for v in there_and_back)
    return gif(figures, [wait] * len(there_and_back), colors=16)


def _dials(pictures: Tensor, title: str, rows: Sequence[str]) -> Figure:
    count, columns = pictures.shape[:2]
    side, left = 0.8, 0.3 + 0.1 * max(map(len, rows))
    height = side * count * pictures.shape[-2] / pictures.shape[-1]
    size = (left + side * columns + 0.1, height + 0.55)
    figure = PlainTextFigure(figsize=size)
    figure.suptitle(title, fontsize=13, y=1 - 0.12 / size[1], va="top")
    axis = figure.add_axes((left / size[0], 0.1 / size[1], side * columns / size[0], height / size[1]))
    edges = (0, columns, count, 0)
    axis.imshow(tile(pictures), cmap="gray", vmin=0, vmax=1, extent=edges, aspect="auto", interpolation="nearest")
    axis.set(xticks=[])
    axis.set_yticks([n + 0.5 for n in range(count)], rows, fontsize=12)
    axis.tick_params(length=0)
    return figure
