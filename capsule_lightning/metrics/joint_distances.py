"""How near joints are to the truth in space: mean distances in millimeters, with and without alignment.

Ionescu, Papava, Olaru & Sminchisescu, Human3.6M, PAMI 2014, section 4.2, names the mean per joint position error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.metrics.joints import JointMeans, distances

MILLIMETERS = 1000


def root_of(names: Sequence[str]) -> tuple[int, ...]:
    """Return the joints whose center is the root: the pelvis, or else both hips, or else all joints."""
    for wanted in (("pelvis",), ("left_hip", "right_hip")):
        if set(wanted) <= set(names):
            return tuple(names.index(name) for name in wanted)
    return tuple(range(len(names)))


def from_root(joints: Tensor, root: Sequence[int]) -> Tensor:
    """Return joints ``(B, K, 3)`` relative to the center of some of them."""
    return joints - joints[:, list(root)].nanmean(dim=1, keepdim=True)


def aligned(joints: Tensor, targets: Tensor) -> Tensor:
    """Return joints after the similarity that brings them nearest to the truth: shift, rotation and scale.

    Args:
        joints: ``(B, K, 3)``.
        targets: ``(B, K, 3)``; NaN where it is not labeled, which counts for nothing.

    Returns:
        ``(B, K, 3)`` float64.

    Source: Umeyama, Least-Squares Estimation of Transformation Parameters Between Two Point Patterns, PAMI 1991,
    Eqs. 40 to 43.
    """
    known = (~targets.isnan().any(dim=-1, keepdim=True)).double()
    count = known.sum(dim=1, keepdim=True).clamp_min(1)
    joints, truth = joints.double(), torch.where(known > 0, targets.double(), 0.0)
    center = (joints * known).sum(dim=1, keepdim=True) / count
    goal = (truth * known).sum(dim=1, keepdim=True) / count
    moved, wanted = (joints - center) * known, (truth - goal) * known
    left, values, right = torch.linalg.svd(wanted.transpose(1, 2) @ moved)
    signs = torch.ones_like(values)
    signs[:, -1] = torch.linalg.det(left @ right).sign()  # no mirror image
    rotation = left @ (signs.unsqueeze(-1) * right)
    spread = moved.square().sum(dim=(1, 2)).clamp_min(1e-12)
    scale = ((values * signs).sum(dim=-1) / spread)[:, None, None]
    moved_back: Tensor = scale * (joints - center) @ rotation.transpose(1, 2) + goal
    return moved_back


class MPJPE(JointMeans):
    """Mean per joint position error in millimeters, after the roots have been brought together.

    Args:
        root: see `root_of`.
    """

    higher_is_better = False

    def __init__(self, root: Sequence[int]) -> None:
        super().__init__()
        self.root = tuple(root)

    @override
    def update(self, joints: Tensor, targets: Tensor, areas: Tensor, confidence: Tensor) -> None:
        self.add(MILLIMETERS * distances(from_root(joints, self.root), from_root(targets, self.root)))


class ProcrustesMPJPE(JointMeans):
    """Mean per joint position error in millimeters, after `aligned`: it forgives size and orientation.

    Bodies of fewer than 3 labeled joints are left out.
    """

    higher_is_better = False

    @override
    def update(self, joints: Tensor, targets: Tensor, areas: Tensor, confidence: Tensor) -> None:
        enough = (~targets.isnan().any(dim=-1)).sum(dim=1) >= 3
        self.add(MILLIMETERS * distances(aligned(joints[enough], targets[enough]), targets[enough]))
