"""Temperature and conformal sets against plain numpy, and what they promise."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.testing import assert_close

from capsule_lightning.analysis.calibration import (
    at_temperature,
    conformal_sets,
    conformal_threshold,
    coverage_by_class,
    temperature,
)
from capsule_lightning.errors import InputError


def drawn(count, at=1.0, classes=4, seed=0):
    """Labels that are drawn from probabilities, and scores that are these probabilities at a temperature."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=random, dtype=torch.float64)
    labels = logits.softmax(dim=1).multinomial(1, generator=random).flatten()
    return (logits / at).softmax(dim=1), labels


def loss_at(t, scores, labels):
    """The mean negative log-likelihood at a temperature, by numpy."""
    powers = scores.numpy() ** (1 / t)
    chosen = powers[np.arange(len(labels)), labels.numpy()] / powers.sum(axis=1)
    return -np.log(chosen).mean()


@pytest.mark.parametrize("at", [0.4, 1.0, 3.0])
def test_the_temperature_is_where_numpy_and_scipy_find_the_lowest_loss(at):
    scores, labels = drawn(400, at)
    found = minimize_scalar(
        loss_at, bounds=(0.01, 20), args=(scores, labels), method="bounded", options={"xatol": 1e-9}
    )
    assert temperature(scores, labels) == pytest.approx(found.x, rel=1e-6)
    assert temperature(scores, labels) == pytest.approx(1 / at, rel=0.2)  # 400 examples tell it so well


def test_scores_at_a_temperature_are_its_softmax_in_the_same_order():
    scores, _ = drawn(20)
    assert_close(at_temperature(scores, 1.0), scores)
    assert_close(at_temperature(scores, 2.5), (scores.log() / 2.5).softmax(dim=1))
    assert (at_temperature(scores, 2.5).argsort() == scores.argsort()).all()
    with pytest.raises(InputError, match="temperature=0"):
        at_temperature(scores, 0)


def test_the_temperature_ends_at_its_limits_where_there_is_none():
    sure = torch.tensor([[0.6, 0.4], [0.3, 0.7]])
    assert temperature(sure, torch.tensor([0, 1])) == pytest.approx(0.01)
    assert temperature(sure, torch.tensor([1, 0])) == pytest.approx(100)
    wrong = temperature(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert math.isfinite(wrong)


@pytest.mark.parametrize("coverage", [0.07, 0.5, 0.9])
@pytest.mark.parametrize("count", [19, 99, 250])
def test_the_threshold_is_the_quantile_of_numpy(coverage, count):
    scores, labels = drawn(count)
    scores = (scores * 20).round() / 20  # many are equal
    oddness = 1 - scores.numpy()[np.arange(count), labels.numpy()]
    level = math.ceil(round((count + 1) * coverage, 9)) / count
    expected = 1 - np.quantile(oddness, level, method="inverted_cdf")
    assert conformal_threshold(scores, labels, coverage) == pytest.approx(expected, abs=1e-12)


def test_sets_hold_the_true_class_as_often_as_was_asked_for():
    """The mean over many splits is between the coverage and the coverage + 1 / (n + 1), by the theorem."""
    held = []
    for seed in range(400):
        scores, labels = drawn(200, at=3.0, seed=seed)
        threshold = conformal_threshold(scores[:100], labels[:100], 0.8)
        held += conformal_sets(scores[100:], threshold)[torch.arange(100), labels[100:]].tolist()
    share = sum(held) / len(held)
    assert 0.8 - 0.01 < share < 0.8 + 1 / 101 + 0.01  # the standard error over 400 splits is 0.003


def test_too_few_examples_put_every_class_into_the_sets():
    scores, labels = drawn(8)
    threshold = conformal_threshold(scores, labels, 0.9)
    assert conformal_sets(scores, threshold).all()
    scores, labels = drawn(9)
    assert conformal_threshold(scores, labels, 0.9) == scores[torch.arange(9), labels].min().item()


def test_the_set_of_an_example_that_was_on_the_threshold_holds_its_class_in_float32_too():
    scores, labels = drawn(9)
    threshold = conformal_threshold(scores.float(), labels, 0.9)
    assert conformal_sets(scores.float(), threshold)[torch.arange(9), labels].all()


def test_coverage_by_class_is_a_share_of_the_images_of_each():
    scores, labels = drawn(60, classes=5)
    labels[labels == 3] = 0
    sets = conformal_sets(scores, 0.3)
    for k, found in enumerate(coverage_by_class(sets, labels).tolist()):
        own = sets.numpy()[labels.numpy() == k, k]
        assert math.isnan(found) if k == 3 else found == pytest.approx(own.mean(), rel=1e-12)


@pytest.mark.parametrize("coverage", [0, 1, 90, math.nan])
def test_a_coverage_that_is_no_probability_is_refused(coverage):
    with pytest.raises(InputError, match=f"coverage={coverage}: expected a probability"):
        conformal_threshold(*drawn(5), coverage)


@pytest.mark.parametrize("shape", [(3,), (5, 1)])
def test_labels_of_another_shape_are_refused(shape):
    scores, _ = drawn(5)
    for call in (temperature, coverage_by_class):
        with pytest.raises(InputError, match="expected \\(B, J\\) and \\(B\\)"):
            call(scores, torch.zeros(shape, dtype=torch.int64))
