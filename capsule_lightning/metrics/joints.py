"""How near joints are to the truth in pixels: PCK and average precision by OKS. Each says what it is measured by.

Every metric is updated with predicted and true joints ``(B, K, D)``, NaN where the truth is not labeled, with the areas
of the bodies in square pixels and with how sure the network is of each body, both ``(B)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

COCO_SIGMAS: Mapping[str, float] = {
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
"""Deviations of human annotators by which COCO measures each joint of either side, in units of the square root of the
body's area (https://cocodataset.org/#keypoints-eval). OKS uses twice these."""
THRESHOLDS = torch.linspace(0.5, 0.95, 10, dtype=torch.float64)
"""OKS from which on a body counts as found, of which the average precision is a mean."""
_RECALLS = torch.linspace(0, 1, 101, dtype=torch.float64) - 1e-9  # so that rounding makes no recall too small


def sigmas_of(names: Sequence[str]) -> Tensor:
    """Return COCO's deviation of each joint ``(K)``; NaN for joints that COCO does not have.

    Example:
        >>> sigmas_of(["left_hip", "tail"])
        tensor([0.1070,    nan])
    """
    parts = (name.removeprefix("left_").removeprefix("right_") for name in names)
    return torch.tensor([COCO_SIGMAS.get(part, torch.nan) for part in parts])


def torso_of(names: Sequence[str]) -> tuple[int, int] | None:
    """Return the joints whose distance is the torso: left shoulder and right hip; None if they are not there."""
    wanted = ("left_shoulder", "right_hip")
    return (names.index(wanted[0]), names.index(wanted[1])) if set(wanted) <= set(names) else None


def distances(joints: Tensor, targets: Tensor) -> Tensor:
    """Return how far joints ``(B, K, D)`` are from the truth, ``(B, K)``; NaN where that is not labeled."""
    apart: Tensor = torch.linalg.vector_norm(joints.double() - targets.double(), dim=-1)
    return apart


def boxes_of(targets: Tensor) -> Tensor:
    """Return the longer side ``(B)`` of the box around the labeled joints of ``targets (B, K, 2)``."""
    known = ~targets.isnan()
    high = torch.where(known, targets, -torch.inf).amax(dim=1)
    low = torch.where(known, targets, torch.inf).amin(dim=1)
    return (high - low).amax(dim=-1).double()


def object_keypoint_similarity(joints: Tensor, targets: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """Return ``mean of exp(-d_i^2 / (2 area (2 sigma_i)^2))`` over the labeled joints of each body.

    Args:
        joints: ``(B, K, 2)`` pixels.
        targets: ``(B, K, 2)``; NaN where it is not labeled.
        areas: ``(B)`` square pixels that the body covers: those of its segment, and not of its box.
        sigmas: ``(K)``; joints for which it is NaN are left out.

    Returns:
        ``(B)`` float64 in [0, 1]; NaN of a body without a labeled joint.

    Source: COCO's keypoint evaluation, https://cocodataset.org/#keypoints-eval.
    """
    squares = distances(joints, targets).square()
    widths = 2 * areas.double().unsqueeze(-1) * (2 * sigmas.double().to(areas.device)).square()
    return torch.exp(-squares / widths.clamp_min(1e-12)).nanmean(dim=-1)


def average_precision(similarity: Tensor, confidence: Tensor) -> Tensor:
    """Return the average precision of one prediction for each body, a mean over `THRESHOLDS`.

    Predictions are taken in the order of their confidence. At each of 101 recalls the best precision at that recall or
    a higher one counts, as in COCO's evaluation.

    Args:
        similarity: ``(N)`` OKS.
        confidence: ``(N)``.

    Returns:
        Scalar float64 in [0, 1].

    Example:
        >>> average_precision(torch.tensor([1.0, 0.0]), torch.tensor([0.9, 0.1]))
        tensor(0.5050, dtype=torch.float64)
    """
    order = confidence.argsort(descending=True, stable=True)
    found = (similarity[order] >= THRESHOLDS.to(order.device).unsqueeze(1)).double()  # (10, N)
    right = found.cumsum(dim=1)
    precision = right / torch.arange(1, len(order) + 1, device=order.device)
    precision = precision.flip(1).cummax(dim=1).values.flip(1)
    place = torch.searchsorted(right / len(order), _RECALLS.to(order.device).expand(len(right), -1).contiguous())
    reached = place < len(order)
    return torch.where(reached, precision.gather(1, place.clamp_max(len(order) - 1)), 0.0).mean()


class JointMeans(Metric):
    """A mean of numbers that are known of some joints or bodies and not of others; NaN if there are none."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Add numbers of any shape, of which those that are NaN are left out."""
        known = ~values.isnan()
        self.total += values[known].sum()
        self.count += known.sum()

    @override
    def compute(self) -> Tensor:
        return (self.total / self.count).float()


class PixelError(JointMeans):
    """The mean distance of a joint from the truth, in pixels."""

    higher_is_better = False

    @override
    def update(self, joints: Tensor, targets: Tensor, areas: Tensor, confidence: Tensor) -> None:
        self.add(distances(joints, targets))


class PCK(JointMeans):
    """Percentage of correct keypoints: the share of joints that are at most ``alpha`` times a length from the truth.

    Args:
        alpha: such as 0.2.
        torso: joints whose true distance is the length; None for the longer side of the box around the labeled joints.
            Bodies one of whose two joints is not labeled are left out.

    Source: Yang & Ramanan, Articulated Human Detection with Flexible Mixtures of Parts, PAMI 2013, section 6, by the
    box; Sapp & Taskar, MODEC, CVPR 2013, section 6, by the torso.
    """

    higher_is_better = True

    def __init__(self, alpha: float, torso: tuple[int, int] | None) -> None:
        super().__init__()
        self.alpha, self.torso = alpha, torso

    @override
    def update(self, joints: Tensor, targets: Tensor, areas: Tensor, confidence: Tensor) -> None:
        if self.torso is None:
            lengths = boxes_of(targets)
        else:
            one, other = self.torso
            lengths = distances(targets[:, one], targets[:, other])
        apart = distances(joints, targets)
        right = (apart <= self.alpha * lengths.unsqueeze(-1)).double()
        self.add(torch.where(apart.isnan() | lengths.isnan().unsqueeze(-1), torch.nan, right))


class PCKWithin(JointMeans):
    """The share of joints that are at most a fixed distance from the truth, such as 10 cm.

    This is what DECA and the literature on ITOP call mAP at 10 cm, though no precision is averaged.

    Args:
        distance: in the units of the joints.
    """

    higher_is_better = True

    def __init__(self, distance: float) -> None:
        super().__init__()
        self.distance = distance

    @override
    def update(self, joints: Tensor, targets: Tensor, areas: Tensor, confidence: Tensor) -> None:
        apart = distances(joints, targets)
        self.add(torch.where(apart.isnan(), torch.nan, (apart <= self.distance).double()))


class OKSAveragePrecision(Metric):
    """See `average_precision` of `object_keypoint_similarity`: one prediction for each body, whose place is known.

    Bodies without a labeled joint that COCO has a deviation for are left out.

    Args:
        sigmas: ``(K)``, see `sigmas_of`.
    """

    higher_is_better = True
    full_state_update = False
    similarity: list[Tensor]
    confidence: list[Tensor]

    def __init__(self, sigmas: Tensor) -> None:
        super().__init__()
        self.sigmas = sigmas
        self.add_state("similarity", [], dist_reduce_fx="cat")
        self.add_state("confidence", [], dist_reduce_fx="cat")

    @override
    def update(self, joints: Tensor, targets: Tensor, areas: Tensor, confidence: Tensor) -> None:
        similarity = object_keypoint_similarity(joints, targets, areas, self.sigmas)
        known = ~similarity.isnan()
        self.similarity.append(similarity[known])
        self.confidence.append(confidence[known].double())

    @override
    def compute(self) -> Tensor:
        similarity = dim_zero_cat(self.similarity) if len(self.similarity) else torch.empty(0)
        if not len(similarity):
            return torch.tensor(torch.nan)
        return average_precision(similarity, dim_zero_cat(self.confidence)).float()
