"""The ordinal loss: the published formula, gradients, and what it prefers."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.thresholds import OrderedThresholds
from capsule_lightning.losses.ordinal import OrdinalLoss, cumulative_cross_entropy


def test_it_is_coral_of_thresholds_on_a_score():
    """Binary cross-entropies of the K - 1 logits, as Cao et al. (2020) state them, Eq. 4."""
    thresholds = OrderedThresholds(5).double()
    scores, targets = torch.randn(7, 1, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 4, 0])
    falls = torch.cat([torch.zeros(1, dtype=torch.float64), F.softplus(thresholds.gaps).cumsum(0)])
    logits = scores + thresholds.first - falls
    levels = (targets.unsqueeze(1) > torch.arange(4)).double()
    expected = F.binary_cross_entropy_with_logits(logits, levels, reduction="none").sum(dim=1).mean()
    assert_close(cumulative_cross_entropy(thresholds(scores).exp(), targets), expected)


def test_lengths_count_by_their_shares():
    lengths = torch.rand(4, 5, dtype=torch.float64)
    targets = torch.tensor([0, 2, 4, 1])
    loss = cumulative_cross_entropy(lengths, targets)
    assert_close(loss, cumulative_cross_entropy(lengths / lengths.sum(dim=1, keepdim=True), targets))


def test_two_grades_are_the_usual_cross_entropy():
    lengths, targets = torch.rand(6, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])
    assert_close(
        cumulative_cross_entropy(lengths, targets), F.nll_loss((lengths / lengths.sum(1, keepdim=True)).log(), targets)
    )


def test_a_mistake_costs_more_the_further_off_it_is():
    sure = torch.full((5, 5), 0.02) + 0.9 * torch.eye(5)
    costs = [float(cumulative_cross_entropy(sure[grade : grade + 1], torch.tensor([0]))) for grade in range(5)]
    assert costs == sorted(costs)
    assert len(set(costs)) == 5


def test_gradients():
    lengths = torch.rand(3, 4, dtype=torch.float64).requires_grad_()
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: cumulative_cross_entropy(x, torch.tensor([0, 3, 1]), weights), (lengths,))


def test_zero_and_half_precision_lengths_are_finite():
    lengths = torch.zeros(2, 4, dtype=torch.bfloat16)
    lengths[1, 3] = 1
    lengths.requires_grad_()
    loss = cumulative_cross_entropy(lengths, torch.tensor([1, 0]))
    loss.backward()
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert lengths.grad.isfinite().all()


def test_weights_count_and_several_labels_are_refused():
    capsules = Capsules(torch.zeros(2, 3, 1), torch.rand(2, 3))
    targets = torch.tensor([0, 2])
    one, other = (OrdinalLoss(class_weights=weights)(capsules, targets) for weights in ([2.0, 1, 2], None))
    assert_close(one, 2 * other)
    with pytest.raises(InputError, match="one grade for each image"):
        OrdinalLoss()(capsules, torch.ones(2, 3))
    with pytest.raises(InputError, match="above 0"):
        OrdinalLoss(class_weights=[1.0, 0.0])


def test_probabilities_are_those_of_the_loss():
    activations = torch.rand(3, 4)
    found = OrdinalLoss().probabilities(activations)
    assert_close(found.sum(dim=1), torch.ones(3, dtype=torch.float64))
    assert torch.equal(found.argmax(1), activations.argmax(1))
