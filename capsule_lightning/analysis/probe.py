"""Measure what each dimension of a class capsule encodes.

Images are transformed by known amounts, and linear regression predicts the amount from the pose.

Sabour et al. 2017, section 5.1, answer the same question by eye.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import partial
from io import StringIO
from math import radians
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capsule_lightning.augmentations.geometry import affine
from capsule_lightning.errors import require
from capsule_lightning.models.base import CapsuleNet

FOLDS = 5
RIDGE = 1e-3
WIDTH = 28
"""Width of the images for which shifts and thickness are given in pixels; for other widths they scale."""


class Parameter(NamedTuple):
    """One way to transform images.

    Attributes:
        name: what changes.
        values: the amounts.
        change: maps images ``(B, C, H, W)`` and an amount to images of the same shape.
    """

    name: str
    values: Sequence[float]
    change: Callable[[Tensor, float], Tensor]


class Probe(NamedTuple):
    """R2 of predicting a parameter from the capsules of the true class.

    Attributes:
        what: what was probed, as text.
        parameters: the P names.
        classes: the K classes that were probed.
        of_class: ``(K, E, P)`` float64, R2 of each dimension alone.
        single: ``(E, P)``, mean of ``of_class`` over the classes.
        whole: ``(P)`` float64, R2 of all dimensions together, mean over the classes.
    """

    what: str
    parameters: list[str]
    classes: list[int]
    of_class: Tensor
    single: Tensor
    whole: Tensor

    def csv(self) -> str:
        """Return a CSV table with a row for each dimension, counted from 1, and one for ``all``."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("dimension", *self.parameters))
        for number, row in enumerate(self.single.tolist(), start=1):
            writer.writerow((number, *(f"{value:.6f}" for value in row)))
        writer.writerow(("all", *(f"{value:.6f}" for value in self.whole.tolist())))
        return text.getvalue()


def move(
    images: Tensor, angle: float = 0, scale: float = 1, shear: float = 0, right: float = 0, down: float = 0
) -> Tensor:
    """Transform all images by the same affine map.

    Args:
        images: ``(B, C, H, W)``.
        angle: rotation in degrees.
        scale: factor.
        shear: in degrees.
        right: shift in pixels of an image that is 28 pixels wide.
        down: shift in the same pixels.
    """
    unit = images.shape[-1] / WIDTH
    offset = images.new_tensor([right * unit, down * unit]).expand(len(images), 2)
    amounts = (radians(angle), scale, radians(shear))
    turned, sized, sheared = (images.new_full((len(images),), amount) for amount in amounts)
    return affine(images, turned, sized, sheared, offset)


def thicken(images: Tensor, pixels: float) -> Tensor:
    """Make strokes that are brighter than their background thicker or thinner.

    A stroke grows by one pixel on each side if every pixel becomes the maximum of the 3x3 pixels around it (gray-scale
    dilation), and shrinks if it becomes the minimum (erosion). A fraction interpolates between two whole numbers.

    Args:
        images: ``(B, C, H, W)``.
        pixels: change on each side of a stroke, in pixels of an image that is 28 pixels wide; below 0 to thin.
    """
    left = abs(pixels) * images.shape[-1] / WIDTH
    sign = 1 if pixels >= 0 else -1
    while left > 0:
        changed = sign * F.max_pool2d(sign * images, 3, stride=1, padding=1)
        images = torch.lerp(images, changed, min(left, 1.0))
        left -= 1
    return images


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("rotation", (-30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0), lambda x, v: move(x, angle=v)),
    Parameter("scale", (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3), lambda x, v: move(x, scale=v)),
    Parameter("shear", (-30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0), lambda x, v: move(x, shear=v)),
    Parameter("shift x", (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0), lambda x, v: move(x, right=v)),
    Parameter("shift y", (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0), lambda x, v: move(x, down=v)),
    Parameter("thickness", (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75), thicken),
)


def cross_validated_r2(features: Tensor, targets: Tensor, folds: Tensor, ridge: float = RIDGE) -> Tensor:
    """Return the share of the targets' variance that ridge regression predicts in examples it was not fitted to.

    For each fold, the examples of the other folds give mean and deviation m, d of each feature and the weights
    ``w = (Z'Z / n + ridge I)^-1 Z'(y - mean y) / n`` with ``Z = (X - m) / d``; then R2 is ``1 - sum (y - y_hat)^2 /
    sum (y - mean y)^2`` over all examples. A feature that is constant in the other folds is ignored. Predictions are
    clamped to the range of the targets of the other folds, because a unit that is nearly always silent would otherwise
    send them far off when it fires.

    Args:
        features: ``(..., N, F)``; the leading dimensions are separate regressions.
        targets: ``(N)``, not all equal.
        folds: ``(N)`` int64, with at least two different values.
        ridge: strength of the penalty, at least 0.

    Returns:
        ``(...)`` float64, at most 1; below 0 if the prediction is worse than the mean.
    """
    x, y = features.double(), targets.double()
    errors = x.new_zeros(x.shape[:-2])
    identity = ridge * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    for fold in set(folds.tolist()):
        fitted = folds != fold
        mean = x[..., fitted, :].mean(dim=-2, keepdim=True)
        deviation = x[..., fitted, :].std(dim=-2, keepdim=True, correction=0)
        varies = deviation > 1e-9 * mean.abs()
        z = torch.where(varies, (x - mean) / torch.where(varies, deviation, 1), 0)
        known, rest = z[..., fitted, :], y[fitted] - y[fitted].mean()
        moments = known.mT @ rest / len(rest)
        weights = torch.linalg.solve(known.mT @ known / len(rest) + identity, moments)
        predicted = (z[..., ~fitted, :] @ weights.unsqueeze(-1)).squeeze(-1) + y[fitted].mean()
        predicted = predicted.clamp(y[fitted].min(), y[fitted].max())
        errors = errors + (y[~fitted] - predicted).square().sum(dim=-1)
    return 1 - errors / (y - y.mean()).square().sum()


def probe(
    features: Callable[[Tensor, Tensor], Tensor],
    pictures: Tensor,
    labels: Tensor,
    parameters: Sequence[Parameter] = PARAMETERS,
    what: str = "the capsule of the true class",
) -> Probe:
    """Transform images by one parameter at a time, and predict its amount from a network's features of them.

    All amounts of an image are in the same fold, so that no regression is measured on an image that it was fitted to.
    Each class has its own regressions; the result is their mean.

    Args:
        features: maps pictures ``(B, C, H, W)`` and labels ``(B)`` to features ``(B, E)``.
        pictures: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N)`` int64.
        parameters: the P ways to transform the pictures.
        what: what is probed, as text.

    Raises:
        InputError: no class has two images.
    """
    classes = [j for j in sorted(set(labels.tolist())) if (labels == j).sum() >= 2]
    require(classes, "a probe needs at least 2 images of some class: it is fitted to some and measured on others")
    single, whole = [], []
    for parameter in parameters:
        poses = torch.stack([features(parameter.change(pictures, value), labels) for value in parameter.values])
        targets = poses.new_tensor(parameter.values, dtype=torch.float64).unsqueeze(1)  # (V, 1)
        alone, together = [], []
        for j in classes:
            ours = poses[:, labels == j]  # (V, n, E)
            count = ours.shape[1]
            folds = (torch.arange(count, device=poses.device) % FOLDS).expand(len(targets), count).flatten()
            x, y = ours.flatten(0, 1), targets.expand(-1, count).flatten()
            alone.append(cross_validated_r2(x.mT.unsqueeze(-1), y, folds))
            together.append(cross_validated_r2(x, y, folds))
        single.append(torch.stack(alone))
        whole.append(torch.stack(together).mean(dim=0))
    names = [parameter.name for parameter in parameters]
    of_class = torch.stack(single, dim=-1).cpu()  # (K, E, P)
    return Probe(what, names, classes, of_class, of_class.mean(dim=0), torch.stack(whole).cpu())


def probe_network(
    net: CapsuleNet,
    normalize: Callable[[Tensor], Tensor],
    pictures: Tensor,
    labels: Tensor,
    parameters: Sequence[Parameter] = PARAMETERS,
    batch_size: int = 256,
) -> Probe:
    """Probe the pose of the true class's capsule.

    If a network has a single number for each class, a logit, the input of its last dense layer is probed instead: those
    features take the place of a pose in the convolutional controls, and are the same for all classes.

    Args:
        net: the network, in evaluation mode.
        normalize: maps pictures in [0, 1] to what the network expects.
        pictures, labels, parameters: see `probe`.
        batch_size: number of images at a time.

    Raises:
        InputError: no class has two images.
    """
    with torch.no_grad():
        has_poses = net(normalize(pictures[:1])).poses.shape[-1] > 1
    dense = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if has_poses or not dense:
        features: Callable[[Tensor, Tensor], Tensor] = partial(_poses, net, normalize)
        what = "the capsule of the true class"
    else:
        features, what = partial(_features, net, dense[-1], normalize), "the features before the last dense layer"

    def in_batches(images: Tensor, of: Tensor) -> Tensor:
        starts = range(0, len(images), batch_size)
        return torch.cat([features(images[n : n + batch_size], of[n : n + batch_size]) for n in starts])

    return probe(in_batches, pictures, labels, parameters, what)


@torch.no_grad()
def _poses(net: CapsuleNet, normalize: Callable[[Tensor], Tensor], pictures: Tensor, labels: Tensor) -> Tensor:
    poses: Tensor = net(normalize(pictures)).poses
    return poses[torch.arange(len(labels), device=poses.device), labels].float()


@torch.no_grad()
def _features(
    net: CapsuleNet, dense: nn.Linear, normalize: Callable[[Tensor], Tensor], pictures: Tensor, labels: Tensor
) -> Tensor:
    seen: list[Tensor] = []
    handle = dense.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].float()))
    try:
        net(normalize(pictures))
    finally:
        handle.remove()
    return seen[-1]
