"""Margin loss: hand values, equality with plain loops, both modes, both forms of target, gradient and precision."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.losses.margin import MarginLoss, margin_loss


@pytest.fixture
def lengths():
    return torch.rand(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.tensor([3, 0, 9, 3])


def equation_4(lengths, present, m_plus=0.9, m_minus=0.1, down_weight=0.5):
    """Equation 4 of the paper, one class at a time; the mean over the examples."""
    total = 0.0
    for example, classes in zip(lengths, present, strict=True):
        for length, here in zip(example, classes, strict=True):
            total += max(0, m_plus - length) ** 2 if here else down_weight * max(0, length - m_minus) ** 2
    return total / len(lengths)


@pytest.mark.parametrize(
    ("length", "loss"), [(0.0, 0.81), (0.5, 0.16 + 9 * 0.5 * 0.16), (0.9, 9 * 0.5 * 0.64), (1.0, 9 * 0.5 * 0.81)]
)
def test_ten_classes_of_equal_length(length, loss):
    lengths = torch.full((2, 10), length)
    assert_close(margin_loss(lengths, torch.tensor([0, 7])).item(), loss, rtol=1e-6, atol=0)
    assert_close(margin_loss(lengths, torch.tensor([0, 7]), mode="official").item(), loss / 20, rtol=1e-6, atol=0)


def test_lengths_beyond_the_margins_cost_nothing(labels):
    lengths = torch.where(torch.nn.functional.one_hot(labels, 10).bool(), 0.95, 0.05)
    assert margin_loss(lengths, labels) == 0


@pytest.mark.parametrize(
    "constants", [{}, {"m_plus": 0.8}, {"m_minus": 0.3}, {"down_weight": 1.0}], ids=lambda c: "".join(c) or "defaults"
)
def test_equals_the_equation_of_the_paper(lengths, labels, constants):
    expected = equation_4(lengths.numpy(), np.eye(10)[labels], **constants)
    capsules = Capsules(torch.zeros(4, 10, 16), lengths)
    assert_close(margin_loss(lengths, labels, **constants).item(), expected, rtol=1e-12, atol=0)
    assert_close(MarginLoss(**constants)(capsules, labels).item(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("classes", [2, 10])
def test_official_is_half_the_mean_over_the_classes(lengths, classes):
    lengths, labels = lengths[:, :classes], torch.tensor([1, 0, 1, 1])
    capsules = Capsules(torch.zeros(4, classes, 16), lengths)
    expected = margin_loss(lengths, labels) / (2 * classes)
    assert_close(margin_loss(lengths, labels, mode="official"), expected)
    assert_close(MarginLoss(mode="official")(capsules, labels), expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_several_classes_may_be_present(lengths, dtype):
    present = torch.zeros(4, 10, dtype=dtype)
    present[:, [2, 5]] = 1
    present[3] = 0
    assert_close(margin_loss(lengths, present).item(), equation_4(lengths.numpy(), present.numpy()), rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_class_indices_equal_their_one_hot_form(lengths, labels, mode):
    one_hot = torch.eye(10, dtype=torch.int64)[labels]
    assert_close(margin_loss(lengths, labels, mode=mode), margin_loss(lengths, one_hot, mode=mode), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_gradient_is_the_numerical_one(lengths, labels, mode):
    lengths[0, 3] = 0.0
    torch.autograd.gradcheck(lambda v: margin_loss(v, labels, mode=mode), lengths.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_float32_under_autocast(lengths, labels, dtype):
    lengths = lengths.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = margin_loss(lengths, labels)
    assert_close(loss, margin_loss(lengths.float(), labels), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(3,), (1,), (4, 9), (3, 10), (4, 10, 1)])
def test_targets_of_another_shape_are_refused(lengths, shape):
    with pytest.raises(InputError) as error:
        margin_loss(lengths, torch.zeros(shape, dtype=torch.int64))
    assert str(shape) in str(error.value)
    assert "(4,)" in str(error.value)
    assert "(4, 10)" in str(error.value)
