"""Rotations as quaternions (w, x, y, z), as vectors, and as matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def matrix_of_quaternion(quaternions: Tensor) -> Tensor:
    """Return rotation matrices ``(..., 3, 3)`` of quaternions ``(..., 4)``, which need not be of length 1.

    Example:
        >>> matrix_of_quaternion(torch.tensor([1.0, 0.0, 0.0, 1.0])).round() @ torch.tensor([1.0, 0.0, 0.0])
        tensor([0., 1., 0.])
    """
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(dim=-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quaternion_of_vector(vectors: Tensor) -> Tensor:
    """Return quaternions ``(..., 4)`` of rotation vectors ``(..., 3)``, whose length is the angle in radians."""
    angle = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.cat([(angle / 2).cos(), vectors * 0.5 * torch.sinc(angle / (2 * torch.pi))], dim=-1)


def about_vertical(quaternions: Tensor) -> Tensor:
    """Return the part of rotations ``(..., 4)`` that turns about y, as matrices ``(..., 3, 3)``.

    It is the twist of the swing-twist decomposition; of a half turn about a horizontal axis, which has none, the
    identity.
    """
    w, _, y, _ = quaternions.unbind(dim=-1)
    none = w.square() + y.square() < 1e-12
    twist = torch.stack([torch.where(none, 1.0, w), torch.zeros_like(w), y, torch.zeros_like(w)], dim=-1)
    return matrix_of_quaternion(twist)
