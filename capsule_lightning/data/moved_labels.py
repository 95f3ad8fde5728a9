"""Boxes and joints moved as an augmentation moves the images that they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.targets import ABSENT
from capsule_lightning.errors import require

SEEN = 0.25
"""Share of a box that must remain in the image for its object to be one that is asked for."""


def require_followed(augmentation: Augmentation, shape: tuple[int, int, int], what: str) -> None:
    """Refuse an augmentation that boxes or joints cannot follow.

    Args:
        augmentation: of training images.
        shape: ``(C, H, W)`` of an image.
        what: cannot follow it, for the message.

    Raises:
        InputError: it does not say where it moves places to, changes the size, or mixes images.
    """
    good = augmentation.moves_masks and augmentation.moves_points and not augmentation.mixes
    require(
        good and augmentation.out_shape(shape) == shape,
        f"augmentation={type(augmentation).__name__}: {what} cannot follow it; expected one that moves pixels and "
        "keeps the size, such as Affine, Shift, PaddedCrop, Mirror, or a Chain of these",
    )


def moved_boxes(
    boxes: Tensor, labels: Tensor, crowd: Tensor, augmentation: Augmentation, draws: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes around where the corners of boxes move to, cut at the border of the image.

    A box that is turned becomes larger than its object. One of which less than `SEEN` remains is no object that could
    be asked for, and nothing counts as wrong in it, as in a crowd; one that is moved out is absent.

    Args:
        boxes: ``(B, N, 4)``, left, top, right and bottom edge in pixels.
        labels: ``(B, N)`` int64, `ABSENT` if there is no Nth object.
        crowd: ``(B, N)`` bool.
        augmentation: what moves the images.
        draws: ``(B, K)``, those that it gets for them.
        size: rows and columns of the images.

    Returns:
        The same three.
    """
    corners = boxes[..., [0, 1, 2, 1, 2, 3, 0, 3]].view(len(boxes), -1, 2)
    moved = augmentation.move_points(corners, draws, size).view(*boxes.shape[:2], 4, 2)
    whole = torch.cat([moved.amin(dim=2), moved.amax(dim=2)], dim=-1)
    seen = torch.minimum(whole.clamp_min(0), whole.new_tensor([size[1], size[0]] * 2))
    before, after = ((each[..., 2:] - each[..., :2]).clamp_min(0).prod(dim=-1) for each in (whole, seen))
    gone = (labels < 0) | (after <= 0)
    crowd = (crowd | (after < SEEN * before)) & ~gone
    return torch.where(gone.unsqueeze(-1), 0.0, seen), torch.where(gone, ABSENT, labels), crowd


def moved_joints(
    joints: Tensor,
    visible: Tensor,
    areas: Tensor,
    augmentation: Augmentation,
    draws: Tensor,
    size: tuple[int, int],
    other_side: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return joints where an augmentation moves them to; in an image that it mirrors, left ones become right ones.

    A joint that is moved out of the image is not seen any more.

    Args:
        joints: ``(B, K, 2)`` pixels, NaN where it is not labeled.
        visible: ``(B, K)`` bool.
        areas: ``(B)`` square pixels.
        augmentation: what moves the images.
        draws: of each image, those that the augmentation gets for them.
        size: rows and columns of the images.
        other_side: for each joint the number of that on the other side of the body, see `other_sides`.

    Returns:
        The same three.
    """
    axes = joints.new_tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).expand(len(joints), -1, -1)
    places = augmentation.move_points(torch.cat([axes, joints], dim=1), draws, size)
    corner, across, down = places[:, 0], places[:, 1], places[:, 2]
    right, below = across - corner, down - corner
    growth = right[:, 0] * below[:, 1] - right[:, 1] * below[:, 0]  # of areas; negative in a mirror
    mirrored = (growth < 0).unsqueeze(1)
    order = torch.as_tensor(list(other_side), device=joints.device)
    moved = torch.where(mirrored.unsqueeze(-1), places[:, 3:][:, order], places[:, 3:])
    inside = ((moved >= 0) & (moved < moved.new_tensor([size[1], size[0]]))).all(dim=-1)
    visible = torch.where(mirrored, visible[:, order], visible) & inside
    return moved, visible, areas * growth.abs()
