"""Metrics of relations against numbers that were worked out by hand."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.errors import InputError
from capsule_lightning.metrics.relations import DirectedF1, HeldOutFacts, RelationMetrics


def test_directed_f1_is_the_official_one():
    """Two relations A and B with two directions each, and Other, as the official scorer counts them.

    A: of 4 in the truth 2 are right; 1 has the wrong direction, 1 is taken for Other; 4 are said to be A (2 right, 1
    of the wrong direction, 1 that is B). P = 2/4, R = 2/4, F1 = 1/2.
    B: of 3 in the truth 1 is right, 1 is said to be A, 1 of the wrong direction; 3 are said to be B (1 right, 1 of the
    wrong direction, 1 that is Other). P = 1/3, R = 1/3, F1 = 1/3.
    Macro F1 = 5/12; Other, of which one is right, is left out.
    """
    pairs = [(0, 0), (1, 1), (0, 1), (1, 4), (2, 2), (3, 0), (2, 3), (4, 2), (4, 4)]  # truth, said
    labels, said = torch.tensor(pairs).T
    metric = DirectedF1(5)
    for part in (slice(0, 4), slice(4, 9)):
        metric.update(F.one_hot(said[part], 5).float(), labels[part])
    assert_close(metric.compute().item(), 5 / 12)


def test_a_relation_that_is_not_there_is_left_out():
    metric = DirectedF1(5)
    metric.update(F.one_hot(torch.tensor([0, 4, 2]), 5).float(), torch.tensor([0, 4, 4]))
    assert metric.compute() == 1.0


def test_facts_of_bags():
    """Three pairs of entities and two relations beside none: six facts that may be, of which three are true.

    In the order of their scores: (pair 7, relation 1) true 0.9; (8, 2) false 0.8; (9, 1) true 0.7; (7, 2) true 0.6,
    said by another sentence of the pair; (8, 1) 0.2; (9, 2) 0.1.
    Precision 1, 1/2, 2/3, 3/4, 3/5, 1/2 at recall 1/3, 1/3, 2/3, 1, 1, 1. By trapezoids the area is 1/3 * 1 + 0 +
    1/3 * (1/2 + 2/3) / 2 + 1/3 * (2/3 + 3/4) / 2 = 1/3 + 7/36 + 17/72 = 55/72.
    """
    scores = torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.4, 0.6], [0.9, 0.2, 0.8], [0.9, 0.7, 0.1]])
    labels, bags = torch.tensor([1, 2, 0, 1]), torch.tensor([7, 7, 8, 9])
    metric = HeldOutFacts(0, at=(1, 3, 100))
    metric.update(scores[:1], labels[:1], bags[:1])
    metric.update(scores[1:], labels[1:], bags[1:])
    found = metric.compute()
    assert_close(found["auc"].item(), 55 / 72)
    assert_close([found[f"precision_at_{k}"].item() for k in (1, 3, 100)], [1.0, 2 / 3, 0.5])


def test_an_even_number_of_classes_is_refused():
    with pytest.raises(InputError, match="Other"):
        RelationMetrics(4)
    assert list(RelationMetrics(19).make()) == ["accuracy", "macro_f1"]
