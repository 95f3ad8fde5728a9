"""Losses of pixels, against plain loops in float64, with pixels that are ignored."""

from math import exp, log

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.errors import InputError
from capsule_lightning.losses import segmentation
from capsule_lightning.losses.pixels import PixelCrossEntropy
from capsule_lightning.losses.segmentation import (
    masked_reconstruction_error,
    pixel_cross_entropy,
    pixel_margin_loss,
    positive_weights,
    soft_dice_loss,
    weighted_binary_cross_entropy,
)

CLASSES = 3
LOSSES = [pixel_margin_loss, pixel_cross_entropy, weighted_binary_cross_entropy, soft_dice_loss]
every_loss = pytest.mark.parametrize("loss", LOSSES)


@pytest.fixture
def pixels():
    """Lengths and a mask in which some pixels are ignored."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.rand(2, 4, 3, CLASSES, generator=generator, dtype=torch.float64)
    return lengths, torch.randint(-1, CLASSES, (2, 4, 3), generator=generator)


def each(lengths, masks):
    """The lengths and the label of each pixel that counts."""
    return [
        (lengths[b, y, x].tolist(), int(masks[b, y, x]))
        for b in range(2) for y in range(4) for x in range(3)
        if masks[b, y, x] >= 0
    ]  # fmt: skip


def test_margin(pixels):
    terms = [
        sum(
            max(0, 0.9 - n) ** 2 if k == label else 0.5 * max(0, n - 0.1) ** 2
            for k, n in enumerate(lengths)
        )
        for lengths, label in each(*pixels)
    ]  # fmt: skip
    assert_close(float(pixel_margin_loss(*pixels)), sum(terms) / len(terms))


def test_cross_entropy(pixels):
    weights = torch.tensor([1.0, 2.0, 0.5])
    terms = [
        -float(weights[label]) * log(exp(4 * lengths[label]) / sum(exp(4 * n) for n in lengths))
        for lengths, label in each(*pixels)
    ]
    assert_close(float(pixel_cross_entropy(*pixels, 4.0, weights)), sum(terms) / len(terms))


def test_binary_cross_entropy(pixels):
    weights = [3.0, 1.0, 0.5]
    terms = [
        sum(-weights[k] * log(n) if k == label else -log(1 - n) for k, n in enumerate(lengths))
        for lengths, label in each(*pixels)
    ]
    found = weighted_binary_cross_entropy(*pixels, torch.tensor(weights))
    assert_close(float(found), sum(terms) / len(terms))


@pytest.mark.parametrize("background", [False, True])
def test_dice(pixels, background):
    lengths, masks = pixels
    terms = []
    for image, mask in zip(lengths, masks, strict=True):
        for k in range(0 if background else 1, CLASSES):
            both = found = there = 0.0
            for p, label in zip(image.flatten(0, 1), mask.flatten(), strict=True):
                if label >= 0:
                    both += float(p[k]) * (label == k)
                    found += float(p[k]) ** 2
                    there += float(label == k)
            terms.append(1 - float((2 * both + 1) / (found + there + 1)))
    assert_close(float(soft_dice_loss(lengths, masks, background)), sum(terms) / len(terms))


def test_dice_of_the_truth_is_zero_and_of_its_opposite_nearly_one():
    masks = torch.randint(CLASSES, (1, 64, 64), generator=torch.Generator().manual_seed(0))
    truth = torch.nn.functional.one_hot(masks, CLASSES).double()
    assert_close(float(soft_dice_loss(truth, masks)), 0.0)
    assert 0.99 < soft_dice_loss(1 - truth, masks) <= 1


@every_loss
def test_ignored_pixels_change_nothing(loss, pixels):
    lengths, masks = pixels
    other = torch.where((masks < 0).unsqueeze(-1), torch.rand_like(lengths), lengths)
    assert_close(loss(other, masks), loss(lengths, masks))
    renamed = torch.where(masks < 0, 255, masks)
    assert_close(loss(lengths, renamed, ignore_index=255), loss(lengths, masks))


@every_loss
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_are_finite_at_the_bounds_and_where_nothing_counts(loss, value, pixels):
    lengths = torch.full_like(pixels[0], value).requires_grad_()
    for masks in (pixels[1], torch.full_like(pixels[1], -1)):
        found = loss(lengths, masks)
        (gradient,) = torch.autograd.grad(found, lengths)
        assert found.isfinite()
        assert gradient.isfinite().all()
        assert not gradient[masks < 0].any()


@pytest.mark.parametrize("loss", [*LOSSES, PixelCrossEntropy(scale=None)])
@pytest.mark.parametrize("counting", [(5, 24), (0, 24)])
def test_the_mean_over_two_processes_is_that_of_one(loss, counting, pixels, monkeypatch):
    lengths, masks = pixels[0].requires_grad_(), pixels[1].clamp_min(0)
    for mask, most in zip(masks, counting, strict=True):
        mask.flatten()[most:] = -1
    (expected,) = torch.autograd.grad(loss(lengths, masks), lengths)
    whole, counts = (masks >= 0).sum(), []
    monkeypatch.setattr(segmentation, "share_of_count", lambda count: counts.append(int(count)) or whole.double() / 2)
    both = sum(loss(lengths[[n]], masks[[n]]) for n in range(2)) / 2
    (found,) = torch.autograd.grad(both, lengths)
    assert_close(found, expected)
    assert counts == ([] if loss is soft_dice_loss else [min(5, counting[0]), 12])  # each process says what it has


@every_loss
def test_gradcheck(loss, pixels):
    lengths, masks = pixels
    assert torch.autograd.gradcheck(lambda x: loss(x, masks), (lengths.clamp(0.11, 0.89).requires_grad_(),))


@every_loss
def test_what_does_not_fit_is_named(loss, pixels):
    lengths, masks = pixels
    with pytest.raises(InputError, match=r"\(2, 4\)"):
        loss(lengths, masks[:, :, 0])
    masks[0, 0, 0] = 7
    with pytest.raises(InputError, match="label 7"):
        loss(lengths, masks)


def test_positive_weights_balance_a_class_with_the_others():
    assert_close(positive_weights(torch.tensor([6, 2, 0])), torch.tensor([1 / 3, 3.0, 1.0]))


def test_reconstruction_is_of_the_foreground():
    images, masks = torch.rand(2, 3, 4, 3), torch.randint(-1, CLASSES, (2, 4, 3))
    expected = sum(
        float((images[b, c, y, x] * (masks[b, y, x] > 0)) ** 2)
        for b in range(2) for c in range(3) for y in range(4) for x in range(3)
    )  # fmt: skip
    assert_close(float(masked_reconstruction_error(torch.zeros_like(images), images, masks)), expected / images.numel())
    with pytest.raises(InputError, match=r"\(2, 3, 4, 2\)"):
        masked_reconstruction_error(images[..., :2], images, masks)
