"""Weights of classes: a weighted mean over the batch of every loss that takes them, and what they may be."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.losses.cross_entropy import CrossEntropyLoss
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.losses.spread import SpreadLoss

WEIGHTS = [0.5, 2.0, 1.0, 3.0]
LABELS = torch.tensor([3, 0, 1, 0, 3])
LOSSES = pytest.mark.parametrize(
    "loss",
    [
        MarginLoss,
        partial(MarginLoss, mode="official"),
        SpreadLoss,
        partial(SpreadLoss, mode="official"),
        *(partial(CrossEntropyLoss, of=of) for of in ("logits", "lengths", "activations", "log_odds")),
    ],
    ids=lambda loss: getattr(loss, "__name__", None) or f"{loss.func.__name__}-{'-'.join(loss.keywords.values())}",
)


@pytest.fixture
def capsules():
    random = torch.Generator().manual_seed(0)
    lengths = torch.rand(5, 4, dtype=torch.float64, generator=random)
    return Capsules(torch.randn(5, 4, 1, dtype=torch.float64, generator=random), lengths)


@LOSSES
def test_the_loss_is_the_mean_of_what_each_example_costs_times_the_weight_of_its_class(loss, capsules):
    each = [loss()(Capsules(*(part[n : n + 1] for part in capsules)), LABELS[n : n + 1]) for n in range(5)]
    expected = sum(WEIGHTS[label] * one for label, one in zip(LABELS.tolist(), each, strict=True)) / 5
    assert_close(loss(class_weights=WEIGHTS)(capsules, LABELS), expected)


@LOSSES
def test_weights_of_one_change_nothing(loss, capsules):
    assert_close(loss(class_weights=[1.0] * 4)(capsules, LABELS), loss()(capsules, LABELS), rtol=1e-14, atol=0)


@LOSSES
def test_the_gradient_of_an_example_is_multiplied_by_the_weight(loss, capsules):
    leaves = [part.clone().requires_grad_() for part in capsules]
    loss(class_weights=WEIGHTS)(Capsules(*leaves), LABELS).backward()
    plain = [part.clone().requires_grad_() for part in capsules]
    loss()(Capsules(*plain), LABELS).backward()
    for weighed, leaf in zip(leaves, plain, strict=True):
        if leaf.grad is not None:
            assert_close(weighed.grad, leaf.grad * torch.tensor(WEIGHTS)[LABELS].view(-1, *[1] * (leaf.ndim - 1)))


@LOSSES
def test_weights_are_no_part_of_a_networks_weights(loss):
    assert loss(class_weights=WEIGHTS).state_dict().keys() == loss().state_dict().keys()


@LOSSES
@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [1.0, -2.0], [1.0, float("inf")], [float("nan")], "uniform"])
def test_what_is_no_weight_is_refused(loss, weights):
    with pytest.raises(InputError, match=r"class_weights=.*expected a finite number above 0"):
        loss(class_weights=weights)


@LOSSES
def test_several_classes_of_an_image_are_refused(loss, capsules):
    with pytest.raises(InputError, match="one class index for each image"):
        loss(class_weights=WEIGHTS)(capsules, torch.eye(4, dtype=torch.int64)[LABELS[:5]])


def test_balanced_weights_give_every_class_the_same_share():
    loss, counts = MarginLoss(class_weights="balanced"), torch.tensor([1, 2, 5, 12])
    assert loss.class_weights is None
    loss.balance(counts)
    assert_close(loss.class_weights, torch.tensor([5.0, 2.5, 1.0, 5 / 12]))
    assert_close((loss.class_weights * counts).sum(), torch.tensor(20.0))  # their mean over the examples is 1
    with pytest.raises(InputError, match="no training example is of class number 2"):
        loss.balance(torch.tensor([1, 2, 0, 12]))
