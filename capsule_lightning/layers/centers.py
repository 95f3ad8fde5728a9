"""Objects as points: boxes as peaks of heat maps, and back.

Zhou, Wang & Kraehenbuehl, Objects as Points, 2019 (arXiv 1904.07850), sections 3 and 4, called CenterNet; the radius of
the peaks is from Law & Deng, CornerNet, ECCV 2018 (arXiv 1808.01244), section 3.2. A cell is a place of a map whose
stride is R pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.layers.precision import full_precision


class CenterTargets(NamedTuple):
    """What a detector should say.

    Attributes:
        heat: ``(B, J, rows, columns)`` in [0, 1], 1 where the center of an object of that class lies.
        counts: ``(B, rows, columns)`` in {0, 1}: 0 within crowds, where nothing counts as wrong.
        cells: ``(B, N)`` int64, where in the flat map the center of each object lies; 0 if absent.
        sizes: ``(B, N, 2)``, width and height in cells.
        offsets: ``(B, N, 2)`` in [0, 1), from the left top of the cell to the center, columns first.
        present: ``(B, N)`` bool, whether there is an Nth object that counts.
    """

    heat: Tensor
    counts: Tensor
    cells: Tensor
    sizes: Tensor
    offsets: Tensor
    present: Tensor


class Boxes(NamedTuple):
    """Boxes found in images, best first.

    Attributes:
        boxes: ``(B, K, 4)``, left, top, right and bottom edge in pixels.
        scores: ``(B, K)`` in [0, 1].
        labels: ``(B, K)`` int64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@full_precision
def gaussian_radius(width: Tensor, height: Tensor, least: float = 0.7) -> Tensor:
    """Return how far both corners of a box may move, whatever their directions, until it overlaps the box by ``least``.

    It is the smallest root of three quadratic equations: both corners move inward, both outward, or in the same
    direction. (The released code divides the last two roots by 2 instead of 2a, and takes the larger of the first two.)

    Args:
        width, height: ``(...)``, of boxes.
        least: intersection over union, in (0, 1).

    Returns:
        ``(...)``.
    """
    total, area = width + height, width * height
    shift = (total - (total.square() - 4 * area * (1 - least) / (1 + least)).sqrt()) / 2
    inward = (2 * total - (4 * total.square() - 16 * area * (1 - least)).sqrt()) / 8
    outward = ((4 * least**2 * total.square() + 16 * least * (1 - least) * area).sqrt() - 2 * least * total) / (
        8 * least
    )
    return torch.minimum(torch.minimum(shift, inward), outward)


@full_precision
def center_targets(
    boxes: Tensor, labels: Tensor, crowd: Tensor, num_classes: int, size: tuple[int, int], stride: int
) -> CenterTargets:
    """Return what a detector should say about objects.

    The heat map of a class is the greatest of Gaussians around the centers of its objects, ``exp(-d^2 / 2 sigma^2)``
    within r cells in each direction, ``sigma = (2r + 1) / 6`` and r the whole part of `gaussian_radius`.

    Args:
        boxes: ``(B, N, 4)`` in pixels.
        labels: ``(B, N)`` int64 in [0, J), below 0 if there is no Nth object.
        crowd: ``(B, N)`` bool.
        num_classes: J.
        size: rows and columns of the map.
        stride: R, pixels of a cell.
    """
    (rows, columns), scaled = size, boxes / stride
    extents = scaled[..., 2:] - scaled[..., :2]
    present = (labels >= 0) & ~crowd & (extents > 0).all(dim=-1)
    centers = (scaled[..., :2] + scaled[..., 2:]) / 2
    last = centers.new_tensor([columns - 1, rows - 1])
    whole = torch.minimum(centers.floor().clamp_min(0), last)  # (B, N, 2)
    cells = (whole[..., 1] * columns + whole[..., 0]).long() * present
    radius = gaussian_radius(extents[..., 0], extents[..., 1]).floor().clamp_min(0)

    across = (torch.arange(columns, device=boxes.device) - whole[..., :1]).unsqueeze(-2)  # (B, N, 1, columns)
    down = (torch.arange(rows, device=boxes.device) - whole[..., 1:]).unsqueeze(-1)  # (B, N, rows, 1)
    radius = radius[..., None, None]
    near = (across.abs() <= radius) & (down.abs() <= radius) & present[..., None, None]
    peaks = torch.exp(-(across.square() + down.square()) / (2 * ((2 * radius + 1) / 6).square())) * near
    place = labels.clamp_min(0)[..., None, None].expand_as(peaks)
    heat = peaks.new_zeros(len(boxes), num_classes, rows, columns).scatter_reduce(1, place, peaks, "amax")

    middle = torch.arange(max(rows, columns), device=boxes.device) + 0.5
    left, top, right, bottom = (edge[..., None] for edge in scaled.unbind(dim=-1))
    along = (middle[:columns] >= left) & (middle[:columns] < right)  # (B, N, columns)
    aside = (middle[:rows] >= top) & (middle[:rows] < bottom)
    masses = along.unsqueeze(-2) & aside.unsqueeze(-1) & ((labels >= 0) & crowd)[..., None, None]
    counts = (~masses.any(dim=1) | (heat == 1).any(dim=1)).to(heat.dtype)
    here = present.unsqueeze(-1)
    return CenterTargets(heat, counts, cells, extents * here, (centers - whole) * here, present)


@full_precision
def find_boxes(heat: Tensor, sizes: Tensor, offsets: Tensor, stride: int, most: int = 100) -> Boxes:
    """Return the boxes at the peaks of heat maps: cells that no neighbor of the same class exceeds.

    Args:
        heat: ``(B, J, rows, columns)`` in [0, 1].
        sizes: ``(B, 2, rows, columns)``, width and height in cells; below 0 counts as 0.
        offsets: ``(B, 2, rows, columns)``, from the left top of the cell to the center.
        stride: R, pixels of a cell.
        most: K, boxes of an image; fewer if its maps have fewer cells.

    Returns:
        The boxes; what is no peak has score 0.
    """
    rows, columns = heat.shape[-2:]
    peaks = torch.where(F.max_pool2d(heat, 3, stride=1, padding=1) == heat, heat, 0)
    scores, places = peaks.flatten(1).topk(min(most, peaks[0].numel()))
    labels, cells = places // (rows * columns), places % (rows * columns)
    corner = torch.stack([cells % columns, cells // columns], dim=-1)
    center = corner + at_cells(offsets, cells)
    half = at_cells(sizes, cells).clamp_min(0) / 2
    return Boxes(torch.cat([center - half, center + half], dim=-1) * stride, scores, labels)


def at_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """Return the values ``(B, N, C)`` of maps ``(B, C, rows, columns)`` at cells ``(B, N)`` of the flat map."""
    return maps.flatten(2).gather(2, cells.unsqueeze(1).expand(-1, maps.shape[1], -1)).transpose(1, 2)
