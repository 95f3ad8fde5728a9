"""Gaussians of votes: equal to the plain formulas, whatever the block, with the numerical gradient."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.kernels import gaussians_of_votes as module
from capsule_lightning.kernels.gaussians_of_votes import gaussians_of_votes

LEAST, PULL = 0.3, 0.7


def given():
    parts = torch.randn(5, 5, 3), torch.rand(5, 5), torch.rand(5) + 0.1, torch.randn(5, 3)
    return [part.double().requires_grad_() for part in parts]


@pytest.mark.parametrize("block", [1, 2 * 5 * 3, 2**20])  # one row at a time, two of the five, all
def test_they_are_those_of_the_whole_whatever_the_block(block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_OF_VOTES", block)
    inputs = votes, weights, scale, offset = given()

    def fitted(*inputs):
        return gaussians_of_votes(*inputs, LEAST, PULL)

    means = scale.unsqueeze(-1) * (weights.unsqueeze(-1) * votes).sum(dim=-2) + offset
    squares = (votes - means.unsqueeze(-2)).square()
    scatter = LEAST + PULL * means.square() + (weights.unsqueeze(-1) * squares).sum(dim=-2)
    assert_close(fitted(*inputs), (means, scatter, (squares / scatter.unsqueeze(-2)).sum(dim=-1)))
    assert torch.autograd.gradcheck(fitted, inputs)
    for output in range(3):  # each of them alone
        assert torch.autograd.gradcheck(lambda *x, output=output: fitted(*x)[output], inputs)


def test_it_can_be_differentiated_once():
    inputs = given()
    (gradient,) = torch.autograd.grad(
        gaussians_of_votes(*inputs, LEAST)[0].square().sum(), inputs[1], create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
