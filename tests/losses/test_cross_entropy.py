"""Cross-entropy: hand values, the poses it takes and refuses, gradient and precision."""

from math import log

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.losses.cross_entropy import CrossEntropyLoss, logit_cross_entropy

LABELS = torch.tensor([1, 0, 2])


@pytest.fixture
def logits():
    return 3 * torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_equal_logits_cost_the_logarithm_of_the_number_of_classes():
    assert_close(logit_cross_entropy(torch.zeros(3, 10), LABELS).item(), log(10), rtol=1e-6, atol=0)


def test_equals_the_mean_negative_logarithm_of_the_softmax(logits):
    odds = logits.exp()
    expected = -(odds[range(3), LABELS] / odds.sum(dim=1)).log().mean()
    assert_close(logit_cross_entropy(logits, LABELS), expected)


def test_reads_the_poses_and_not_the_activations(logits):
    capsules = Capsules(logits.unsqueeze(-1), torch.zeros(3, 4))
    assert_close(CrossEntropyLoss()(capsules, LABELS), logit_cross_entropy(logits, LABELS))


def test_vector_poses_are_refused():
    with pytest.raises(InputError, match=r"poses of 16 dimensions .* MarginLoss"):
        CrossEntropyLoss()(Capsules(torch.zeros(3, 4, 16), torch.zeros(3, 4)), LABELS)


def test_gradient_is_the_numerical_one(logits):
    torch.autograd.gradcheck(lambda z: logit_cross_entropy(z, LABELS), logits.requires_grad_())


def test_large_logits_stay_finite(logits):
    large = (1e6 * logits).requires_grad_()
    loss = logit_cross_entropy(large, LABELS)
    (gradient,) = torch.autograd.grad(loss, large)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("autocast", [True, False])
def test_is_float32_under_every_precision(logits, autocast):
    logits = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = logit_cross_entropy(logits, LABELS)
    assert_close(loss, logit_cross_entropy(logits.float(), LABELS), rtol=0, atol=0)
