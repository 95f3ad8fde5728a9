"""Cross-entropy: plain loops, hand values, what it takes and refuses, saturated input, gradient and precision."""

from functools import partial
from math import exp, log

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.losses.cross_entropy import (
    BinaryCrossEntropyLoss,
    CrossEntropyLoss,
    activation_cross_entropy,
    binary_cross_entropy,
    length_cross_entropy,
    log_odds_cross_entropy,
    logit_cross_entropy,
)
from capsule_lightning.models.cnn import capsules_of_logits

LABELS = torch.tensor([1, 0, 2])
PRESENT = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
OF_ACTIVATIONS = [partial(length_cross_entropy, scale=3.0), activation_cross_entropy, log_odds_cross_entropy]
OF_LOGITS = [logit_cross_entropy, binary_cross_entropy]


@pytest.fixture
def logits():
    return 3 * torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def activations():
    return torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def softmax_cross_entropy(scores, labels):
    """The mean of ``-log(exp(z_t) / sum of exp(z_k))``, one example at a time."""
    total = 0.0
    for example, t in zip(scores, labels, strict=True):
        total -= log(exp(example[t]) / sum(exp(z) for z in example))
    return total / len(scores)


def test_equal_logits_cost_the_logarithm_of_the_number_of_classes():
    assert_close(logit_cross_entropy(torch.zeros(3, 10), LABELS).item(), log(10), rtol=1e-6, atol=0)


def test_of_logits_equals_plain_loops(logits):
    expected = softmax_cross_entropy(logits.tolist(), LABELS.tolist())
    assert_close(logit_cross_entropy(logits, LABELS).item(), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_of_lengths_equals_plain_loops(activations, scale):
    expected = softmax_cross_entropy((scale * activations).tolist(), LABELS.tolist())
    assert_close(length_cross_entropy(activations, LABELS, scale).item(), expected, rtol=1e-9, atol=0)


def test_of_lengths_is_least_where_one_capsule_is_of_length_one():
    loss = length_cross_entropy(torch.eye(10, dtype=torch.float64)[:3], torch.arange(3))
    assert_close(loss.item(), log(1 + 9 * exp(-1)), rtol=1e-12, atol=0)


def test_of_activations_equals_plain_loops(activations):
    examples = zip(activations.tolist(), LABELS.tolist(), strict=True)
    expected = sum(-log(example[t] / sum(example)) for example, t in examples) / 3
    assert_close(activation_cross_entropy(activations, LABELS).item(), expected, rtol=1e-9, atol=0)


def test_of_activations_that_are_a_softmax_is_that_of_its_logits(logits):
    loss = activation_cross_entropy(logits.softmax(dim=-1), LABELS)
    assert_close(loss, F.cross_entropy(logits, LABELS), rtol=1e-9, atol=0)


def test_of_activations_does_not_depend_on_their_sum(activations):
    whole = activation_cross_entropy(activations, LABELS)
    assert_close(activation_cross_entropy(0.3 * activations, LABELS), whole, rtol=1e-9, atol=0)


def test_of_log_odds_equals_plain_loops(activations):
    odds = [[log(a / (1 - a)) for a in example] for example in activations.tolist()]
    expected = softmax_cross_entropy(odds, LABELS.tolist())
    assert_close(log_odds_cross_entropy(activations, LABELS).item(), expected, rtol=1e-9, atol=0)


def test_of_log_odds_of_sigmoids_is_that_of_the_scores_with_their_gradients(logits):
    logits.requires_grad_()
    loss, expected = log_odds_cross_entropy(logits.sigmoid(), LABELS), F.cross_entropy(logits, LABELS)
    assert_close(loss, expected, rtol=1e-9, atol=0)
    gradients = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_of_log_odds_keeps_float32_scores_from_minus_60_to_12():
    scores = torch.tensor([[-60.0, 12.0, 3.0], [0.5, -30.0, 9.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    loss, expected = log_odds_cross_entropy(scores.sigmoid(), labels), F.cross_entropy(scores, labels)
    assert_close(loss, expected, rtol=0, atol=0.01)
    gradients = (torch.autograd.grad(value, scores)[0] for value in (loss, expected))
    assert_close(*gradients, rtol=0, atol=0.01)


def test_of_each_class_by_itself_equals_plain_loops(logits):
    total = 0.0
    for example, present in zip(logits.tolist(), PRESENT.tolist(), strict=True):
        for z, here in zip(example, present, strict=True):
            total -= log(1 / (1 + exp(-z))) if here else log(1 - 1 / (1 + exp(-z)))
    assert_close(binary_cross_entropy(logits, PRESENT).item(), total / 3, rtol=1e-9, atol=0)
    capsules = Capsules(logits.unsqueeze(-1), torch.zeros(3, 4))
    assert_close(BinaryCrossEntropyLoss()(capsules, PRESENT).item(), total / 3, rtol=1e-9, atol=0)


def test_of_each_class_by_itself_takes_class_indices(logits):
    one_hot = torch.eye(4, dtype=torch.bool)[LABELS]
    assert_close(binary_cross_entropy(logits, LABELS), binary_cross_entropy(logits, one_hot), rtol=0, atol=0)


@pytest.mark.parametrize("loss", OF_ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("other", [0.0, 0.5, 1.0])
def test_activations_of_zero_and_one_give_finite_losses_and_gradients(loss, dtype, value, other):
    activations = torch.full((3, 4), other, dtype=dtype)
    activations[range(3), LABELS] = value
    cost = loss(activations.requires_grad_(), LABELS)
    (gradient,) = torch.autograd.grad(cost, activations)
    assert cost.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", [activation_cross_entropy, log_odds_cross_entropy])
def test_the_least_activation_of_the_target_has_a_finite_gradient_towards_more(loss):
    activations = torch.full((3, 4), 0.5)
    activations[range(3), LABELS] = 1e-29
    (gradient,) = torch.autograd.grad(loss(activations.requires_grad_(), LABELS), activations)
    assert gradient.isfinite().all()
    assert (gradient[range(3), LABELS] < 0).all()


@pytest.mark.parametrize(
    ("of", "function"),
    [
        ("lengths", length_cross_entropy),
        ("activations", activation_cross_entropy),
        ("log_odds", log_odds_cross_entropy),
    ],
)
def test_of_the_activations_of_vector_capsules(activations, of, function):
    capsules = Capsules(torch.full((3, 4, 16), torch.nan), activations)
    assert_close(CrossEntropyLoss(of=of)(capsules, LABELS), function(activations, LABELS), rtol=0, atol=0)


def test_lengths_are_scaled(activations):
    capsules = Capsules(torch.zeros(3, 4, 16), activations)
    loss = CrossEntropyLoss(of="lengths", scale=10.0)(capsules, LABELS)
    assert_close(loss, F.cross_entropy(10 * activations, LABELS))


def test_reads_the_poses_and_not_the_activations(logits):
    capsules = Capsules(logits.unsqueeze(-1), torch.zeros(3, 4))
    assert_close(CrossEntropyLoss()(capsules, LABELS), logit_cross_entropy(logits, LABELS))


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), BinaryCrossEntropyLoss()])
def test_vector_poses_are_refused(loss):
    with pytest.raises(InputError, match=rf"poses of 16 dimensions .* {type(loss).__name__} .* MarginLoss"):
        loss(Capsules(torch.zeros(3, 4, 16), torch.zeros(3, 4)), LABELS)


@pytest.mark.parametrize("of", ["logits", "lengths", "activations", "log_odds"])
def test_multi_hot_targets_are_refused(of):
    with pytest.raises(InputError, match=r"targets of shape \(3, 4\): .* one class index"):
        CrossEntropyLoss(of=of)(Capsules(torch.zeros(3, 4, 1), torch.zeros(3, 4)), PRESENT)


@pytest.mark.parametrize("shape", [(2,), (3, 3), (4, 4), (3, 4, 1)])
def test_targets_of_another_shape_are_refused_by_each_class_by_itself(logits, shape):
    with pytest.raises(InputError) as error:
        binary_cross_entropy(logits, torch.zeros(shape, dtype=torch.int64))
    for text in (str(shape), "(3,)", "(3, 4)"):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "length"}, "of='length': expected one of logits, lengths, activations, log_odds"),
        ({"of": "lengths", "scale": 0.0}, r"scale=0\.0: expected more than 0"),
        ({"of": "activations", "scale": 2.0}, r"scale=2\.0, of=activations: only lengths are scaled"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        CrossEntropyLoss(**options)


@pytest.mark.parametrize("loss", OF_LOGITS)
def test_gradient_of_logits_is_the_numerical_one(loss, logits):
    torch.autograd.gradcheck(lambda z: loss(z, LABELS), logits.requires_grad_())


@pytest.mark.parametrize("loss", OF_ACTIVATIONS)
def test_gradient_of_activations_is_the_numerical_one(loss, activations):
    torch.autograd.gradcheck(lambda a: loss(a, LABELS), activations.requires_grad_())


@pytest.mark.parametrize("loss", OF_LOGITS)
def test_large_logits_stay_finite(loss, logits):
    large = (1e6 * logits).requires_grad_()
    cost = loss(large, LABELS)
    (gradient,) = torch.autograd.grad(cost, large)
    assert cost.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("loss", [*OF_LOGITS, *OF_ACTIVATIONS])
def test_is_float32_under_every_precision(loss, activations, autocast):
    scores = activations.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        cost = loss(scores, LABELS)
    assert_close(cost, loss(scores.float(), LABELS), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options", [{"of": "lengths", "scale": 3.0}, {"of": "log_odds"}, {"of": "activations"}], ids=str
)
def test_its_probabilities_are_those_whose_likelihood_it_is(activations, options):
    loss = CrossEntropyLoss(**options)
    capsules = Capsules(activations.unsqueeze(-1), activations)
    found = loss.probabilities(activations)
    assert_close(found.sum(dim=-1), torch.ones(3, dtype=torch.float64))
    assert_close(loss(capsules, LABELS), -found[torch.arange(3), LABELS].log().mean(), rtol=1e-9, atol=0)


def test_the_probabilities_of_logits_are_their_softmax(logits):
    capsules = capsules_of_logits(logits)
    assert_close(CrossEntropyLoss().probabilities(capsules.activations), logits.softmax(dim=-1))


@pytest.mark.parametrize("of", ["lengths", "log_odds", "activations"])
def test_probabilities_of_saturated_activations_are_finite_and_of_silent_ones_equal(of):
    loss = CrossEntropyLoss(of=of)
    found = loss.probabilities(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert_close(found.sum(dim=-1), torch.ones(2, dtype=torch.float64))
    assert found[0, 0] == found[0, 1] > found[0, 2]
    assert_close(found[1], torch.full((3,), 1 / 3, dtype=torch.float64))
