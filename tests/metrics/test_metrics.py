"""Metrics of one class each: equal to plain computations, however examples are split, and never NaN."""

import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    mean_absolute_error,
    roc_auc_score,
)
from torch.testing import assert_close
from torchmetrics.classification import MulticlassAccuracy

from capsule_lightning.errors import InputError
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.metrics.accuracy import Accuracy
from capsule_lightning.metrics.classes import BY_CLASS, MAKERS, ClassMetrics
from capsule_lightning.metrics.confusion import quadratic_kappa, sensitivity, specificity
from capsule_lightning.metrics.probabilities import CalibrationError

J = 5


def scores_and_labels(present=range(J), count=203, seed=0):
    """Scores on a coarse grid, so that many are equal, and labels of the classes that are present."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.tensor(list(present))[torch.randint(0, len(present), (count,), generator=random)]
    scores = torch.randint(1, 6, (count, J), generator=random).double()
    scores[torch.arange(count), labels] += 2
    return scores / scores.sum(dim=1, keepdim=True), labels


def plainly(name, scores, labels):
    """A metric by scikit-learn or a loop over examples, on classes that have examples."""
    classes, present = scores.argmax(dim=1), labels.unique().tolist()
    if name == "accuracy":
        return sum(a == b for a, b in zip(classes.tolist(), labels.tolist(), strict=True)) / len(labels)
    if name == "balanced_accuracy":
        return balanced_accuracy_score(labels, classes)
    if name == "macro_f1":
        return f1_score(labels, classes, average="macro")
    if name in ("auroc", "average_precision"):
        score = {"auroc": roc_auc_score, "average_precision": average_precision_score}[name]
        return sum(score(labels == k, scores[:, k]) for k in present) / len(present)
    if name == "quadratic_kappa":
        return cohen_kappa_score(labels, classes, labels=range(J), weights="quadratic")
    if name == "grade_error":
        return mean_absolute_error(labels, classes)
    if name == "brier":
        rows = zip(scores.tolist(), labels.tolist(), strict=True)
        return sum((p - (k == label)) ** 2 for row, label in rows for k, p in enumerate(row)) / len(labels)
    bins = {}
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        highest = max(row)
        lower = next(m for m in range(15) if m / 15 < highest <= (m + 1) / 15)
        bins.setdefault(lower, []).append((row.index(highest) == label) - highest)
    return sum(abs(sum(gaps)) for gaps in bins.values()) / len(labels)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("present", [range(J), (0, 3, 4), (1, 2)], ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_equals_a_plain_computation_with_ties_and_classes_without_examples(name, present):
    scores, labels = scores_and_labels(present)
    metric = ClassMetrics(J, names=[name]).make()[name]
    metric.update(scores, labels)
    assert metric.compute().item() == pytest.approx(plainly(name, scores, labels), rel=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_processes_with_unequal_shares_measure_what_one_does(name):
    scores, labels = scores_and_labels()
    one, *parts = (ClassMetrics(J, names=[name]).make()[name] for _ in range(3))
    one.update(scores, labels)
    for part, chosen in zip(parts, (slice(0, 150), slice(150, None)), strict=True):
        for half in (0, 1):  # in two batches each
            part.update(scores[chosen][half::2], labels[chosen][half::2])
    gathered = parts[0]
    gathered.merge_state(parts[1])
    assert_close(gathered.compute(), one.compute(), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", MAKERS)
def test_of_examples_of_one_class_none_is_nan(name):
    labels = torch.full((4,), 2)
    metric = ClassMetrics(J, names=[name]).make()[name]
    metric.update(torch.eye(J, dtype=torch.float64)[labels], labels)
    undecided = {"auroc": 0.5, "quadratic_kappa": 0.0}
    best = 1.0 if metric.higher_is_better else 0.0
    assert metric.compute().item() == undecided.get(name, best)


@pytest.mark.parametrize("name", MAKERS)
def test_better_predictions_have_the_value_that_is_said_to_be_better(name):
    scores, labels = scores_and_labels()
    values = []
    for certainty in (0.0, 0.9):
        metric = ClassMetrics(J, names=[name]).make()[name]
        metric.update((1 - certainty) * scores + certainty * torch.eye(J)[labels], labels)
        values.append(metric.compute().item())
    assert (values[1] > values[0]) == metric.higher_is_better
    assert values[0] != values[1]


def test_sensitivity_and_specificity_are_shares_of_the_examples():
    scores, labels = scores_and_labels((0, 1, 3))
    classes = scores.argmax(dim=1)
    confusion = torch.zeros(J, J, dtype=torch.float64)
    for label, said in zip(labels.tolist(), classes.tolist(), strict=True):
        confusion[label, said] += 1
    found, spared = sensitivity(confusion), specificity(confusion)
    for k in range(J):
        assert spared[k].item() == pytest.approx((classes[labels != k] != k).double().mean().item(), rel=1e-12)
        if k in (0, 1, 3):
            assert found[k].item() == pytest.approx((classes[labels == k] == k).double().mean().item(), rel=1e-12)
        else:
            assert found[k].isnan()
    measured = ClassMetrics(J, names=["specificity"]).by_class(confusion)
    assert list(measured) == ["specificity"]
    assert_close(measured["specificity"], spared)
    assert Accuracy(J).by_class(confusion) == {}


def test_the_accuracy_of_scores_is_that_of_the_longest_capsules_to_the_bit():
    random = torch.Generator().manual_seed(0)
    activations, labels = torch.rand(500, J, generator=random), torch.randint(0, J, (500,), generator=random)
    of_scores, of_classes = Accuracy(J).make()["accuracy"], MulticlassAccuracy(J, average="micro")
    of_scores.update(MarginLoss().probabilities(activations), labels)
    of_classes.update(activations.argmax(dim=1), labels)
    assert of_scores.compute() == of_classes.compute()
    assert of_scores.state_dict() == {}


def test_kappa_is_0_by_chance_and_negative_below():
    assert quadratic_kappa(torch.outer(torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]))).item() == pytest.approx(0)
    assert quadratic_kappa(torch.tensor([[0, 5], [5, 0]])).item() == -1


def test_a_score_on_the_bound_of_two_bins_is_in_the_lower_and_1_in_the_last():
    metric = CalibrationError()
    metric.update(torch.tensor([[1 / 15, 0.0], [1.0, 0.0], [0.97, 0.03]]), torch.tensor([0, 0, 0]))
    assert metric.count.tolist() == [1] + [0] * 13 + [2]


def test_the_accuracy_is_always_measured_and_names_keep_their_order():
    assert list(ClassMetrics(J, names=["brier", "auroc", "brier"]).make()) == ["accuracy", "brier", "auroc"]
    assert list(ClassMetrics(J).make()) == list(MAKERS)
    assert set(ClassMetrics(J).names) == {*MAKERS, *BY_CLASS}


def test_an_unknown_name_and_a_single_class_are_refused():
    with pytest.raises(InputError, match=r"names='recall': expected one of accuracy, .*sensitivity"):
        ClassMetrics(J, names=["recall"])
    with pytest.raises(InputError, match="Accuracy: num_classes=1: expected at least 2"):
        Accuracy(1)
