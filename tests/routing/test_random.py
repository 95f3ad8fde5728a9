"""Random routing: couplings that depend on the seed alone, are saved, and are never learnt."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.votes import vote
from capsule_lightning.routing.random import RandomRouting


@pytest.fixture
def capsules():
    return Capsules.from_vectors(torch.randn(2, 6, 4, dtype=torch.float64))


def test_couplings_are_those_of_the_seed_and_of_nothing_else(capsules):
    first = RandomRouting(6, 4, 3, 5).couplings(capsules)
    torch.manual_seed(7)
    again, other = RandomRouting(6, 4, 3, 5).couplings(capsules), RandomRouting(6, 4, 3, 5, seed=1).couplings(capsules)
    assert_close(again, first, rtol=0, atol=0)
    assert_close(first[0], first[1], rtol=0, atol=0)
    assert (other - first).abs().max() > 0.1


def test_couplings_do_not_use_up_the_random_numbers_of_the_weights():
    torch.manual_seed(0)
    one = RandomRouting(6, 4, 3, 5, seed=1).weight
    torch.manual_seed(0)
    assert_close(RandomRouting(6, 4, 3, 5, seed=2).weight, one, rtol=0, atol=0)


def test_couplings_travel_with_the_state_and_are_not_learnt(capsules):
    one, two = RandomRouting(6, 4, 3, 5, seed=1).double(), RandomRouting(6, 4, 3, 5, seed=2).double()
    two.load_state_dict(one.state_dict())
    assert_close(two(capsules), one(capsules), rtol=0, atol=0)
    assert [name for name, _ in one.named_parameters()] == ["weight"]


@pytest.mark.parametrize("vote_weights", [None, 2])
def test_parents_are_squashed_sums_of_coupled_votes(capsules, vote_weights):
    routing = RandomRouting(6, 4, 3, 5, vote_weights=vote_weights).double()
    votes = vote(capsules.poses, routing.weight)
    expected = squash((routing.couplings(capsules).unsqueeze(-1) * votes).sum(dim=-3))
    assert_close(routing(capsules).poses, expected, rtol=0, atol=1e-9)


def test_all_divisions_of_a_child_are_equally_likely():
    shares = RandomRouting(20_000, 1, 4, 1).couplings(Capsules.from_vectors(torch.zeros(20_000, 1))).numpy()
    # a share of four has the distribution function 1 - (1 - x)^3
    for x in (0.1, 0.3, 0.7):
        np.testing.assert_allclose((shares < x).mean(axis=0), 1 - (1 - x) ** 3, atol=0.015, rtol=0)
