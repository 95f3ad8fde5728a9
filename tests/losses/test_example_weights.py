"""Weights of examples, mixed labels, the focal factor and smoothed labels, each equal to a plain loop in float64."""

from functools import partial
from math import exp, log

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.losses.cross_entropy import BinaryCrossEntropyLoss, CrossEntropyLoss
from capsule_lightning.losses.margin import MarginLoss, margin_loss
from capsule_lightning.losses.ordinal import OrdinalLoss
from capsule_lightning.losses.spread import SpreadLoss

LABELS = torch.tensor([3, 0, 1, 0, 3])
WEIGHTS = torch.tensor([0.0, 2.5, 1.0, 0.25, 3.0], dtype=torch.float64)
LOSSES = [
    MarginLoss,
    partial(MarginLoss, mode="official", focal_gamma=2.0),
    SpreadLoss,
    OrdinalLoss,
    *(partial(CrossEntropyLoss, of=of, label_smoothing=0.1) for of in ("logits", "lengths", "activations")),
    partial(CrossEntropyLoss, of="log_odds"),
]
OF_CLASSES = [0.5, 2.0, 1.0, 3.0]


@pytest.fixture
def capsules():
    random = torch.Generator().manual_seed(0)
    lengths = torch.rand(5, 4, dtype=torch.float64, generator=random)
    return Capsules(torch.randn(5, 4, 1, dtype=torch.float64, generator=random), lengths)


def one_by_one(loss, capsules, labels=LABELS):
    return [loss(Capsules(*(part[n : n + 1] for part in capsules)), labels[n : n + 1]) for n in range(5)]


@pytest.mark.parametrize(
    ("loss", "of_classes"),
    [*((loss, weights) for loss in LOSSES for weights in (None, OF_CLASSES)), (BinaryCrossEntropyLoss, None)],
)
def test_the_loss_is_the_mean_of_what_each_example_costs_times_its_weights(loss, of_classes, capsules):
    each = one_by_one(loss(), capsules)
    factors = [1.0] * 5 if of_classes is None else [of_classes[label] for label in LABELS.tolist()]
    expected = sum(u * w * one for u, w, one in zip(WEIGHTS.tolist(), factors, each, strict=True)) / 5
    made = loss(class_weights=of_classes) if of_classes else loss()
    assert made.takes_weights
    assert_close(made(capsules, LABELS, WEIGHTS), expected)


def test_several_classes_of_an_image_may_have_weights(capsules):
    present = (torch.arange(20).view(5, 4) % 3 == 0).long()
    for loss in (MarginLoss(), BinaryCrossEntropyLoss()):
        expected = (
            sum(u * one for u, one in zip(WEIGHTS.tolist(), one_by_one(loss, capsules, present), strict=True)) / 5
        )
        assert_close(loss(capsules, present, WEIGHTS), expected)


def test_two_shares_are_the_loss_of_soft_targets(capsules):
    other, share = torch.tensor([1, 0, 2, 3, 0]), torch.tensor([0.9, 0.5, 0.6, 1.0, 0.75], dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    soft = share.unsqueeze(1) * eye[LABELS] + (1 - share).unsqueeze(1) * eye[other]
    margin, cross = MarginLoss(focal_gamma=1.5), CrossEntropyLoss(of="lengths", scale=1.0)
    for loss, expected in (
        (margin, margin_loss(capsules.activations, soft, focal_gamma=1.5)),
        (cross, torch.nn.functional.cross_entropy(capsules.activations, soft)),
    ):
        assert_close(loss(capsules, LABELS, share) + loss(capsules, other, 1 - share), expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_focal_factor_equals_a_loop(gamma, capsules):
    total = 0.0
    for row, label in zip(capsules.activations.tolist(), LABELS.tolist(), strict=True):
        for k, v in enumerate(row):
            here = (1 - v) ** gamma * max(0, 0.9 - v) ** 2
            total += here if k == label else 0.5 * v**gamma * max(0, v - 0.1) ** 2
    assert_close(MarginLoss(focal_gamma=gamma)(capsules, LABELS).item(), total / 5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_gradient_of_the_focal_factor_is_finite_at_both_ends_and_the_numerical_one_between(gamma, capsules):
    ends = torch.tensor([[0.0, 1.0, 0.0, 1.0 + 1e-7]], dtype=torch.float64, requires_grad=True)
    loss = partial(margin_loss, m_plus=1.0, m_minus=0.0, focal_gamma=gamma)
    (gradient,) = torch.autograd.grad(loss(ends, torch.tensor([0])), ends)
    assert gradient.isfinite().all()
    lengths = capsules.activations.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: margin_loss(v, LABELS, focal_gamma=gamma), lengths)


def test_smoothed_labels_equal_a_loop(capsules):
    total = 0.0
    for row, label in zip(capsules.activations.tolist(), LABELS.tolist(), strict=True):
        for k, v in enumerate(row):
            target = 0.2 / 4 + (0.8 if k == label else 0)
            total -= target * (v - log(sum(exp(a) for a in row)))
    found = CrossEntropyLoss(of="lengths", label_smoothing=0.2)(capsules, LABELS)
    assert_close(found.item(), total / 5)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (partial(MarginLoss, focal_gamma=-1.0), "focal_gamma=-1.0: expected a finite number of 0 or more"),
        (partial(MarginLoss, focal_gamma=float("nan")), "focal_gamma=nan"),
        (partial(CrossEntropyLoss, label_smoothing=1.0), "label_smoothing=1.0: expected 0 to less than 1"),
    ],
)
def test_bad_values_are_refused(make, named):
    with pytest.raises(InputError, match=named):
        make()
