"""What each dimension of a class capsule does to the picture (Sabour et al. 2017, section 5.1, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.decoders.base import Decoder
from capsule_lightning.figures.tiles import as_array, tiled

#: The paper's: -0.25 to 0.25 by steps of 0.05.
STEPS = tuple(step / 20 for step in range(-5, 6))


def perturbed(pose: Tensor, steps: Sequence[float] = STEPS) -> Tensor:
    """Copies of a pose, one dimension moved in each.

    Args:
        pose: ``(E)``.
        steps: V amounts that are added.

    Returns:
        ``(E, V, E)``; at ``[e, v]`` the pose with ``steps[v]`` added to dimension e.

    Source: Sabour et al. 2017, section 5.1.
    """
    moves = torch.as_tensor(steps, dtype=pose.dtype, device=pose.device)
    return pose + moves[:, None] * torch.eye(len(pose), dtype=pose.dtype, device=pose.device)[:, None]


@torch.no_grad()
def perturbed_pictures(
    decoder: Decoder, pose: Tensor, label: int, num_classes: int, steps: Sequence[float] = STEPS
) -> Tensor:
    """What a decoder makes of a pose with one dimension moved.

    Args:
        decoder: of the network.
        pose: ``(E)``, of the capsule of ``label``.
        label: any class, in [0, J).
        num_classes: J.
        steps: V amounts that are added.

    Returns:
        ``(E, V, C, H, W)`` in [0, 1].
    """
    moved = perturbed(pose, steps).flatten(0, 1)  # (E * V, E)
    poses = moved.new_zeros(len(moved), num_classes, len(pose))
    poses[:, label] = moved
    pictures: Tensor = decoder(poses, torch.full((len(moved),), label, device=pose.device))
    return pictures.view(len(pose), len(steps), *pictures.shape[1:])


def perturbation_figure(
    image: Tensor, pictures: Tensor, title: str, steps: Sequence[float] = STEPS, notes: Sequence[str] | None = None
) -> Figure:
    """Draw a row of pictures for each dimension, the input beside them.

    Args:
        image: ``(C, H, W)`` in [0, 1], the input.
        pictures: ``(E, V, C, H, W)`` in [0, 1].
        title: of the figure.
        steps: the V amounts, written above the columns; that of 0 is framed.
        notes: a word on each of the E dimensions, written to the right of its row; None for none.

    Returns:
        The figure: its first axes hold the pictures as one image, its second the input.
    """
    dims, columns = pictures.shape[:2]
    shape = pictures.shape[-2] / pictures.shape[-1]
    side, height = 0.55, 0.55 * shape * dims
    left, right = 2.1, 1.6 if notes else 0.3
    size = (left + side * columns + right, max(height, 1.2) + 0.95)
    figure = Figure(figsize=size)
    figure.suptitle(title, fontsize=12, y=1 - 0.12 / size[1], va="top")
    bottom = 0.15 / size[1]
    axis = figure.add_axes((left / size[0], bottom, side * columns / size[0], height / size[1]))
    edges = (0, columns, dims, 0)
    axis.imshow(tiled(pictures), cmap="gray", vmin=0, vmax=1, extent=edges, aspect="auto", interpolation="nearest")
    for line in range(1, dims):
        axis.axhline(line, color="white", linewidth=1.5)
    for line in range(1, columns):
        axis.axvline(line, color="white", linewidth=0.8)
    if 0 in steps:
        axis.axvspan(steps.index(0), steps.index(0) + 1, fill=False, edgecolor="#f4a582", linewidth=1.5)
    axis.set_xticks([n + 0.5 for n in range(columns)], [f"{step:+.2f}" if step else "0" for step in steps], fontsize=8)
    axis.set_yticks([n + 0.5 for n in range(dims)], [str(n + 1) for n in range(dims)], fontsize=9)
    axis.set_ylabel("dimension", fontsize=9)
    axis.tick_params(length=0, labelbottom=False, labeltop=True)
    for n, note in enumerate(notes or ()):
        axis.text(columns + 0.15, n + 0.5, note, va="center", fontsize=8)
    beside = figure.add_axes((0.15 / size[0], 1 - 2.0 / size[1], 1.2 / size[0], 1.2 / size[1]))
    beside.imshow(as_array(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    beside.set_axis_off()
    beside.set_title("input", fontsize=9)
    return figure
