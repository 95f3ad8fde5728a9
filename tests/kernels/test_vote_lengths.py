"""Lengths of votes that are never formed equal those of votes, in values and gradients."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.kernels import vote_lengths as module
from capsule_lightning.kernels.vote_lengths import vote_lengths
from capsule_lightning.layers.votes import vote


@pytest.mark.parametrize(("matrices", "block"), [(1, 2**18), (3, 40), (6, 2**18)])
def test_lengths_and_gradients_are_those_of_votes(matrices, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    random = torch.Generator().manual_seed(0)
    poses = torch.randn(4, 6, 3, generator=random, dtype=torch.float64).requires_grad_()
    weight = torch.randn(matrices, 5, 2, 3, generator=random, dtype=torch.float64).requires_grad_()
    found, expected = vote_lengths(poses, weight), vote(poses, weight).norm(dim=-1)
    assert_close(found, expected)
    direction = torch.randn(found.shape, generator=random, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(found, (poses, weight), direction),
        torch.autograd.grad(expected, (poses, weight), direction),
        strict=True,
    ):
        assert_close(one, other)


def test_votes_of_no_length_have_no_gradient():
    poses, weight = torch.zeros(1, 2, 3, requires_grad=True), torch.ones(1, 4, 5, 3, requires_grad=True)
    vote_lengths(poses, weight).sum().backward()
    assert not poses.grad.any()
    assert not weight.grad.any()
