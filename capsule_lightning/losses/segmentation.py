"""Losses of class capsules at each pixel, against masks of labels in which some pixels may be ignored.

Sources: LaLonde & Bagci, Capsules for Object Segmentation, 2018 (arXiv 1804.04241), and its released code, for margin
loss and weighted cross-entropy per pixel; Milletari, Navab & Ahmadi, V-Net, 2016 (arXiv 1606.04797), for Dice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.errors import InputError
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.losses.counts import share_of_count
from capsule_lightning.losses.margin import margin_loss

IGNORED = -1
"""The label of pixels that no loss counts."""

_LEAST = 1e-4  # probabilities are kept so far from 0 and 1 before a logarithm is taken


def counted_pixels(activations: Tensor, masks: Tensor, ignore_index: int = IGNORED) -> tuple[Tensor, Tensor]:
    """Return the pixels that count, one after the other.

    Args:
        activations: ``(B, H, W, J)``.
        masks: ``(B, H, W)``, labels in [0, J), or ``ignore_index``.
        ignore_index: the label of pixels that do not count.

    Returns:
        Activations ``(N, J)`` and labels ``(N)``, int64.

    Raises:
        InputError: the shapes do not fit, or a label is out of range.
    """
    if masks.shape != activations.shape[:-1]:
        raise InputError(
            f"masks of shape {tuple(masks.shape)}: expected one label for each pixel, {tuple(activations.shape[:-1])}"
        )
    counted = masks != ignore_index
    labels = masks[counted].long()
    if ((labels < 0) | (labels >= activations.shape[-1])).any():
        wrong = labels[(labels < 0) | (labels >= activations.shape[-1])][0]
        raise InputError(
            f"label {int(wrong)} in a mask: expected 0 to {activations.shape[-1] - 1}, or {ignore_index} for what "
            "is to be ignored"
        )
    return activations[counted], labels


def mean_of_pixels(
    loss: Callable[[Tensor, Tensor], Tensor], activations: Tensor, masks: Tensor, ignore_index: int = IGNORED
) -> Tensor:
    """Return the mean of a loss over the pixels that count; 0, with a gradient of zero, if none does.

    In training on several processes the mean over processes is that over all pixels of theirs that count.

    Args:
        loss: called with activations ``(N, J)`` and labels ``(N)`` of the pixels that count; returns their mean.
        activations, masks, ignore_index: see `counted_pixels`.
    """
    counted, labels = counted_pixels(activations, masks, ignore_index)
    here = torch.tensor(len(labels), device=counted.device)
    share = share_of_count(here)  # asked by every process, whatever it has
    mean = loss(counted, labels) if len(labels) else counted.sum()
    return mean * (here / share).to(mean.dtype)


def pixel_margin_loss(
    lengths: Tensor,
    masks: Tensor,
    m_plus: float = 0.9,
    m_minus: float = 0.1,
    down_weight: float = 0.5,
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORED,
) -> Tensor:
    """Return `margin_loss` of the pixels, the mean over those that count; 0 if none does.

    Args:
        lengths: ``(B, H, W, J)`` in [0, 1].
        masks, ignore_index: see `counted_pixels`.
        m_plus, m_minus, down_weight, class_weights: see `margin_loss`.
    """

    def loss(lengths: Tensor, labels: Tensor) -> Tensor:
        return margin_loss(lengths, labels, m_plus, m_minus, down_weight, class_weights=class_weights)

    return mean_of_pixels(loss, lengths, masks, ignore_index)


@full_precision
def pixel_cross_entropy(
    lengths: Tensor,
    masks: Tensor,
    scale: float = 10.0,
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORED,
) -> Tensor:
    """Return the cross-entropy of ``softmax(scale * lengths)``, the mean over the pixels that count; 0 if none does.

    Lengths lie in [0, 1], so that without a scale the softmax could not become sure.

    Args:
        lengths: ``(B, H, W, J)`` in [0, 1].
        masks, ignore_index: see `counted_pixels`.
        scale: what lengths are multiplied by.
        class_weights: ``(J)``, by which the loss of a pixel is multiplied; the mean is that of the products.
    """

    def loss(lengths: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(scale * lengths, labels, reduction="none")
        return (losses if class_weights is None else losses * class_weights.to(losses.dtype)[labels]).mean()

    return mean_of_pixels(loss, lengths, masks, ignore_index)


@full_precision
def weighted_binary_cross_entropy(
    lengths: Tensor, masks: Tensor, positive_weight: Tensor | None = None, ignore_index: int = IGNORED
) -> Tensor:
    """Return ``-w_j y log p - (1 - y) log(1 - p)`` of each class's lengths as probabilities p, summed over classes.

    Args:
        lengths: ``(B, H, W, J)`` in [0, 1], kept within [0.0001, 0.9999].
        masks, ignore_index: see `counted_pixels`.
        positive_weight: ``(J)``, w, how much a pixel of the class counts: the paper's is the number of pixels that are
            not of the class by that of those that are, see `positive_weights`; None for 1.

    Returns:
        Scalar, the mean over the pixels that count; 0 if none does.

    Source: the released code of LaLonde & Bagci 2018.
    """

    def loss(lengths: Tensor, labels: Tensor) -> Tensor:
        probabilities = lengths.clamp(_LEAST, 1 - _LEAST)
        present = F.one_hot(labels, lengths.shape[-1]).to(lengths.dtype)
        positive = present * probabilities.log()
        if positive_weight is not None:
            positive = positive * positive_weight.to(lengths.dtype)
        return -(positive + (1 - present) * (1 - probabilities).log()).sum(dim=-1).mean()

    return mean_of_pixels(loss, lengths, masks, ignore_index)


def positive_weights(counts: Tensor) -> Tensor:
    """Return for each class the pixels of other classes by those of it, ``(N - N_j) / N_j``, from ``counts (J)``.

    The weight of a class without pixels is 1.
    """
    found = (counts.sum() - counts) / counts.clamp_min(1)
    return torch.where(counts > 0, found, 1.0)


@full_precision
def soft_dice_loss(
    probabilities: Tensor, masks: Tensor, background: bool = False, smooth: float = 1.0, ignore_index: int = IGNORED
) -> Tensor:
    """Return one minus the Dice of probabilities, ``1 - (2 sum p y + s) / (sum p^2 + sum y^2 + s)``.

    The sums are over the pixels of an image that count, and the loss is the mean over images and classes. It takes
    probabilities: the released code of SegCaps computes a Dice of logits, which has no bounds.

    Args:
        probabilities: ``(B, H, W, J)`` in [0, 1]: lengths, or their softmax.
        masks, ignore_index: see `counted_pixels`.
        background: count class 0, too.
        smooth: s, above 0, so that a class that is neither there nor found costs nothing.

    Returns:
        Scalar in [0, 1].

    Source: Milletari et al. 2016, whose Dice has squares in the denominator.
    """
    counted_pixels(probabilities, masks, ignore_index)  # refuses what does not fit
    counted = (masks != ignore_index).unsqueeze(-1)
    present = F.one_hot(masks.long().clamp_min(0) * counted.squeeze(-1), probabilities.shape[-1]) * counted
    found, present = (part.flatten(1, 2) for part in (probabilities * counted, present.to(probabilities.dtype)))
    if not background:
        found, present = found[..., 1:], present[..., 1:]
    overlap = 2 * (found * present).sum(dim=1) + smooth
    return (1 - overlap / (found.square().sum(dim=1) + present.sum(dim=1) + smooth)).mean()


def masked_reconstruction_error(pictures: Tensor, images: Tensor, masks: Tensor) -> Tensor:
    """Return the mean squared difference, over all pixels, to images in which the background is black.

    Args:
        pictures: ``(B, C, H, W)`` in [0, 1].
        images: the same shape.
        masks: ``(B, H, W)``; labels above 0 are foreground.

    Returns:
        Scalar, to which the paper gives a weight of 0.1.

    Raises:
        InputError: the shapes differ.

    Source: LaLonde & Bagci 2018, section 2.2.
    """
    if pictures.shape != images.shape:
        raise InputError(f"reconstructions of shape {tuple(pictures.shape)}: expected {tuple(images.shape)}")
    return F.mse_loss(pictures, images * (masks > 0).unsqueeze(1))
