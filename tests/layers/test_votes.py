"""Votes: the matrix product of each child with each parent, and how its weight begins."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.layers.votes import matrix_vote, own_vote_weight, sum_of_votes, vote, vote_weight


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_each_vote_is_the_matrix_of_its_pair_times_the_pose(leading):
    poses, weight = torch.randn(*leading, 4, 3), torch.randn(4, 2, 5, 3)
    votes = vote(poses, weight)
    assert votes.shape == (*leading, 4, 2, 5)
    for *batch, i, j in np.ndindex(*votes.shape[:-1]):
        assert_close(votes[*batch, i, j], weight[i, j] @ poses[*batch, i])


@pytest.mark.parametrize("count", [6, 2, 1])
def test_shared_matrices_and_copies_of_them_give_the_same_votes(count):
    poses, weight = torch.randn(2, 6, 3), torch.randn(count, 2, 5, 3)
    assert_close(vote(poses, own_vote_weight(weight, 6)), vote(poses, weight))


@pytest.mark.parametrize("count", [6, 2, 1])
def test_the_sum_of_votes_needs_no_votes(count):
    poses = torch.randn(2, 6, 4, dtype=torch.float64)
    for form, shape in ((vote, (5, 4)), (matrix_vote, (2, 2))):
        weight = torch.randn(count, 3, *shape, dtype=torch.float64)
        assert_close(sum_of_votes(poses, weight), form(poses, weight).sum(dim=-3))


def test_votes_follow_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert vote(torch.randn(4, 3), torch.randn(4, 2, 5, 3)).dtype == torch.bfloat16


@pytest.mark.parametrize("std", [0.1, 0.5])
def test_weight_is_a_normal_cut_at_two_standard_deviations(std):
    weight = vote_weight(20, 10, 16, 8, std=std)
    assert weight.shape == (20, 10, 16, 8)
    assert weight.requires_grad
    assert 1.9 * std < weight.abs().max() <= 2 * std
    # cut at two standard deviations, a normal keeps 0.880 of its own; 25,600 draws tell it to within half a percent
    assert_close(weight.std().item(), 0.880 * std, rtol=0.02, atol=0)
