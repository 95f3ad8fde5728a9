"""What a camera sees of a body of capsules and spheres: its depth, and which of its joints."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

REACH = 1.3
"""Meters before and behind the point that the camera looks at, within which depth is told apart."""
FIELD, FIELD_AT = 2.4, 4.0
"""Meters that the width of a picture shows, and at which distance."""
_OWN = 0.13
"""Meters by which the surface over a joint may be nearer than the joint itself while the joint counts as seen."""


class Camera(NamedTuple):
    """Cameras that look at a point from somewhere on a sphere around it.

    Attributes:
        azimuth: ``(F)`` radians about the vertical; 0 sees the body from the front, and a quarter turn its right side.
        elevation: ``(F)`` radians above the horizon; a quarter turn sees it from the top.
        distance: ``(F)`` meters.
    """

    azimuth: Tensor
    elevation: Tensor
    distance: Tensor


def focal_length(size: int) -> float:
    """Return the focal length, in pixels, of a picture of ``size`` pixels each way."""
    return size * FIELD_AT / FIELD


def axes_of(camera: Camera) -> Tensor:
    """Return what is right, up and toward the camera in the world, ``(F, 3, 3)``, one in each row.

    The camera may look straight down: what is up in its picture then is where the body looks.
    """
    cos_a, sin_a = camera.azimuth.cos(), camera.azimuth.sin()
    cos_e, sin_e = camera.elevation.cos(), camera.elevation.sin()
    right = torch.stack([sin_a, torch.zeros_like(sin_a), -cos_a], dim=-1)
    up = torch.stack([-sin_e * cos_a, cos_e, -sin_e * sin_a], dim=-1)
    toward = torch.stack([cos_e * cos_a, sin_e, cos_e * sin_a], dim=-1)
    return torch.stack([right, up, toward], dim=1)


def seen_from(points: Tensor, camera: Camera) -> Tensor:
    """Return points as the camera sees them.

    Args:
        points: ``(F, ..., 3)`` meters in the world, from the point that the camera looks at.
        camera: F of them.

    Returns:
        ``(F, ..., 3)`` meters from the camera: to its right, up, and away from it.
    """
    turned = torch.einsum("fij,f...j->f...i", axes_of(camera), points)
    right, up, toward = turned.unbind(dim=-1)
    distance = camera.distance.view(-1, *[1] * (right.ndim - 1))
    return torch.stack([right, up, distance - toward], dim=-1)


def project(points: Tensor, size: int) -> Tensor:
    """Return where points are in a picture.

    Args:
        points: ``(..., 3)`` as `seen_from` returns them, before the camera.
        size: rows and columns of the picture.

    Returns:
        ``(..., 2)`` pixels to the right and down from the upper left corner.
    """
    right, up, away = points.unbind(dim=-1)
    focal = focal_length(size)
    return torch.stack([size / 2 + focal * right / away, size / 2 - focal * up / away], dim=-1)


def z_buffer(ends: Tensor, radii: Tensor, size: int) -> Tensor:
    """Return how far the nearest surface is in each pixel.

    Each limb is the union of a cylinder and of two spheres at its ends, and a ray meets each of these where a quadratic
    equation says. Only the pixels of a box around a limb are looked at.

    Args:
        ends: ``(F, P, 2, 3)`` meters, as `seen_from` returns them; the two ends of each limb.
        radii: ``(F, P)`` meters.
        size: rows and columns of the picture.

    Returns:
        ``(F, size, size)`` meters along the axis of the camera; infinite where nothing is.
    """
    limbs, pixels = _around(ends.flatten(0, 1), radii.flatten(), size)
    row, column = pixels // size, pixels % size
    step = 1 / focal_length(size)
    rays = torch.stack([(column + 0.5 - size / 2) * step, (size / 2 - row - 0.5) * step, torch.ones(len(row))], dim=1)
    depth = _meets(rays, ends.flatten(0, 1), radii.flatten(), limbs)
    nearest = ends.new_full((len(ends) * size * size,), torch.inf)
    nearest.scatter_reduce_(0, limbs // ends.shape[1] * size * size + pixels, depth, "amin")
    return nearest.view(len(ends), size, size)


def _around(ends: Tensor, radii: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the pixels in a box around each of L limbs as pairs: limbs ``(E)`` and pixels ``(E)``, row by row."""
    radius = radii[:, None, None]
    near, far = (ends[..., 2:] - radius).clamp_min(1e-3), ends[..., 2:] + radius
    low, high = ends[..., :2] - radius, ends[..., :2] + radius
    flip = torch.tensor([1.0, -1.0])  # up in the world is down in the picture
    corners = torch.stack([low / near, low / far, high / near, high / far]) * flip * focal_length(size) + size / 2
    first = corners.amin(dim=(0, 2)).floor().clamp(0, size).long()  # (L, 2), column and row
    counts = corners.amax(dim=(0, 2)).ceil().clamp(0, size).long() - first
    total = counts.prod(dim=1)
    limbs = torch.arange(len(ends)).repeat_interleave(total)
    place = torch.arange(len(limbs)) - (total.cumsum(0) - total)[limbs]  # of a pixel in its box
    width = counts[limbs, 0]
    return limbs, (first[limbs, 1] + place // width) * size + first[limbs, 0] + place % width


def _meets(rays: Tensor, ends: Tensor, radii: Tensor, limbs: Tensor) -> Tensor:
    """Return where rays ``(E, 3)`` meet the limbs that ``limbs (E)`` names, ``(E)``; infinite if they do not.

    For a ray ``t r`` and the axis d of a limb from its start p: the cylinder is met where ``a t^2 + 2 b t + c = 0``
    with ``a = |d|^2 |r|^2 - (d r)^2``, ``b = (d p)(d r) - |d|^2 (p r)``, ``c = |d|^2 (|p|^2 - radius^2) - (d p)^2``.
    """
    start, end = ends.unbind(dim=1)
    axis, thick = end - start, radii.square()
    long, across, far = axis.square().sum(dim=1), (axis * start).sum(dim=1), start.square().sum(dim=1)
    square = rays.square().sum(dim=1)

    def sphere(center: Tensor) -> Tensor:
        b = (center[limbs] * rays).sum(dim=1)
        inside = b.square() - square * (center.square().sum(dim=1) - thick)[limbs]
        depth = (b - inside.clamp_min(0).sqrt()) / square
        return torch.where((inside >= 0) & (depth > 0), depth, torch.inf)

    along = (axis[limbs] * rays).sum(dim=1)
    a = long[limbs] * square - along.square()
    b = across[limbs] * along - long[limbs] * (start[limbs] * rays).sum(dim=1)
    inside = b.square() - a * (long * (far - thick) - across.square())[limbs]
    depth = (-b - inside.clamp_min(0).sqrt()) / a.clamp_min(1e-12)
    place = depth * along - across[limbs]  # along the axis, times its length
    hit = (inside >= 0) & (place > 0) & (place < long[limbs]) & (depth > 0)
    cylinder = torch.where(hit, depth, torch.inf)
    return torch.minimum(cylinder, torch.minimum(sphere(start), sphere(end)))


def brightness_of(depth: Tensor, distance: Tensor) -> Tensor:
    """Return depth as a picture: 1 is `REACH` before the point that the camera looks at, 0 the background.

    Args:
        depth: ``(F, H, W)`` meters.
        distance: ``(F)`` meters of the cameras.

    Returns:
        ``(F, H, W)`` in [0, 1].
    """
    return ((distance[:, None, None] + REACH - depth) / (2 * REACH)).clamp(0, 1)


def seen_joints(joints: Tensor, depth: Tensor) -> Tensor:
    """Return which joints are seen: within the picture, and not behind another part of the body.

    Args:
        joints: ``(F, K, 3)`` meters as `seen_from` returns them.
        depth: ``(F, size, size)`` meters.

    Returns:
        ``(F, K)`` bool.
    """
    size = depth.shape[-1]
    places = project(joints, size).floor().long()
    inside = ((places >= 0) & (places < size)).all(dim=-1)
    column, row = places.clamp(0, size - 1).unbind(dim=-1)
    surface = depth.flatten(1).gather(1, row * size + column)
    return inside & surface.isfinite() & (joints[..., 2] - surface <= _OWN)
