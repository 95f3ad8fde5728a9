"""Pictures that are made of two, and how much of each is in them.

The partner of an image is another one of the same epoch, which the loader draws: see `PartnerLoader`.
"""

from __future__ import annotations

from math import isfinite, pi

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.errors import require


class MixUp(Augmentation):
    """Weighted means of two images, ``x = s x_1 + (1 - s) x_2``, which count as both of their classes.

    The loss is ``s l(y_1) + (1 - s) l(y_2)``. For a loss that is linear in the targets, as the margin loss and all
    kinds of cross-entropy are, it is the loss of the targets ``s y_1 + (1 - s) y_2``; for the spread loss it is the
    mean of the loss over labels that are drawn by their shares. The decoder sees the capsule of the class with the
    greater share, and should reconstruct the mixed picture; the training accuracy is that of the greater share.

    Args:
        alpha: the share s is drawn from Beta(alpha, alpha): near 0 or 1 for a small alpha, uniformly for 1.
        probability: share of the images that are mixed at all.

    Raises:
        InputError: ``alpha`` is not above 0, or ``probability`` is not in [0, 1].

    Source: Zhang, Cisse, Dauphin & Lopez-Paz, mixup: Beyond Empirical Risk Minimization, ICLR 2018 (arXiv 1710.09412),
    Eq. 1; 1 is their alpha for CIFAR-10, and 0.2 that for ImageNet.
    """

    num_draws = 3
    mixes = True

    def __init__(self, alpha: float = 1.0, probability: float = 1.0) -> None:
        _require_mix("MixUp", alpha, probability)
        self.alpha, self.probability = alpha, probability

    @override
    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        return images  # `mix` has them as pairs

    @override
    def mix(self, first: Tensor, second: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        shares = first_shares(draws, self.alpha, self.probability)
        return torch.lerp(second, first, shares.to(first)[:, None, None, None]), shares


class CutMix(Augmentation):
    """Images with a window of another one, which count as both of their classes, each by its area.

    The window's center is drawn uniformly, and the window ends at the edge of the image; its sides are those of the
    image times ``sqrt(1 - s)``. For loss, decoder and accuracy see `MixUp`.

    Args:
        alpha: s is drawn from Beta(alpha, alpha), 1 in the paper.
        probability: share of the images that get a window at all; the paper's code has 0.5 for CIFAR, 1 for ImageNet.

    Raises:
        InputError: ``alpha`` is not above 0, or ``probability`` is not in [0, 1].

    Source: Yun, Han, Oh, Chun, Choe & Yoo, CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features, ICCV 2019 (arXiv 1905.04899), Eq. 1 and 2.
    """

    num_draws = 5
    mixes = True

    def __init__(self, alpha: float = 1.0, probability: float = 1.0) -> None:
        _require_mix("CutMix", alpha, probability)
        self.alpha, self.probability = alpha, probability

    @override
    def train(self, images: Tensor, draws: Tensor) -> Tensor:
        return images  # `mix` has them as pairs

    @override
    def mix(self, first: Tensor, second: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        side = (1 - first_shares(draws, self.alpha, self.probability)).sqrt()
        rows = _within(first.shape[-2], side, draws[:, 3])
        columns = _within(first.shape[-1], side, draws[:, 4])
        window = rows.unsqueeze(2) & columns.unsqueeze(1)  # (B, H, W)
        return torch.where(window.unsqueeze(1), second, first), 1 - window.double().mean(dim=(1, 2)).to(side.dtype)


def first_shares(draws: Tensor, alpha: float, probability: float) -> Tensor:
    """Return how much of each mixed picture is its first one.

    Args:
        draws: ``(B, K)`` in [0, 1), of which the first three are used.
        alpha: the share is drawn from Beta(alpha, alpha).
        probability: share of the pictures that are mixed at all.

    Returns:
        ``(B)`` in [0, 1]; 1 for those that are not mixed.
    """
    return torch.where(draws[:, 2] < probability, symmetric_beta(draws[:, 0], draws[:, 1], alpha), 1)


def symmetric_beta(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    """Return numbers of the distribution Beta(alpha, alpha), each from two uniform ones, exactly and without rejection.

    They are ``1/2 + sign(c) / 2 sqrt(w / (1 + w))`` with ``c = cos(2 pi v)`` and ``w = (u^(-1/alpha) - 1) c^2``.

    Args:
        first: ``(B)``, u in [0, 1).
        second: ``(B)``, v in [0, 1).
        alpha: above 0.

    Returns:
        ``(B)`` in [0, 1], of the dtype of the draws.

    Source: Devroye, Random Variate Generation in One Line of Code, WSC 1996, after Bailey, Polar Generation of Random
    Variates with the t-Distribution, Mathematics of Computation 62, 1994.
    """
    cosine = (2 * pi * second).cos()
    odds = (first.pow(-1 / alpha) - 1) * cosine.square()  # infinite for u = 0, which gives 0 or 1
    return (1 + cosine.sign() * (1 + 1 / odds).rsqrt()) / 2


def _within(size: int, side: Tensor, center: Tensor) -> Tensor:
    """Return ``(B, size)``, whether a pixel of a row lies in a window of ``side`` times ``size`` around a center.

    Args:
        size: pixels of the row.
        side: ``(B)`` in [0, 1].
        center: ``(B)`` in [0, 1), of the row.
    """
    length, middle = (size * side).long(), (size * center).long()
    start = (middle - length // 2).clamp(0, size)
    end = (middle + length - length // 2).clamp(0, size)
    places = torch.arange(size, device=side.device)
    return (places >= start.unsqueeze(1)) & (places < end.unsqueeze(1))


def _require_mix(name: str, alpha: float, probability: float) -> None:
    require(isfinite(alpha) and alpha > 0, f"{name}: alpha={alpha}: expected a finite number above 0")
    require(0 <= probability <= 1, f"{name}: probability={probability}: expected 0 to 1")
