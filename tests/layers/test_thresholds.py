"""Thresholds in order, and probabilities of grades that are never below zero."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.errors import InputError
from capsule_lightning.layers.thresholds import OrderedThresholds, grade_log_probabilities


def test_probabilities_are_the_differences_of_the_sigmoids():
    logits = torch.randn(6, 4, dtype=torch.float64).sort(dim=1, descending=True).values
    above = logits.sigmoid()
    ends = torch.ones(6, 1, dtype=torch.float64)
    expected = torch.cat([ends, above], dim=1) - torch.cat([above, 0 * ends], dim=1)
    assert_close(grade_log_probabilities(logits).exp(), expected)


def test_far_scores_keep_finite_logarithms_and_gradients():
    scores = torch.tensor([[-60.0], [0.0], [60.0]], requires_grad=True)
    found = OrderedThresholds(5)(scores)
    assert found.isfinite().all()
    assert_close(found.exp().sum(dim=1), torch.ones(3))
    found.sum().backward()
    assert scores.grad.isfinite().all()


def test_thresholds_stay_in_order_whatever_their_parameters_are():
    torch.manual_seed(0)
    thresholds = OrderedThresholds(6)
    for parameter in thresholds.parameters():
        torch.nn.init.normal_(parameter, std=5)
    probabilities = thresholds(torch.linspace(-20, 20, 50).unsqueeze(1)).exp()
    assert (probabilities >= 0).all()
    expected_grade = (probabilities * torch.arange(6)).sum(dim=1)
    assert (expected_grade.diff() >= -1e-6).all()  # a higher score never means a lower grade
    assert probabilities[0].argmax() == 0
    assert probabilities[-1].argmax() == 5


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_at_first_all_grades_are_equally_probable(num_classes):
    expected = torch.full((1, num_classes), 1 / num_classes)
    assert_close(OrderedThresholds(num_classes)(torch.zeros(1, 1)).exp(), expected)


def test_gradients():
    logits = torch.randn(3, 4, dtype=torch.float64).sort(dim=1, descending=True).values.requires_grad_()
    assert torch.autograd.gradcheck(grade_log_probabilities, (logits,))


def test_two_grades_have_one_threshold_and_one_grade_is_refused():
    assert OrderedThresholds(2)(torch.zeros(1, 1)).shape == (1, 2)
    with pytest.raises(InputError, match="at least 2"):
        OrderedThresholds(1)
