"""Constant routing: begins as uniform routing, and sums votes with couplings that no example changes."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.routing.constant import ConstantRouting, constant_routing
from capsule_lightning.routing.uniform import UniformRouting


@pytest.fixture
def capsules():
    return Capsules.from_vectors(torch.randn(2, 6, 4, dtype=torch.float64))


@pytest.mark.parametrize("vote_weights", [None, 2, 1])
def test_parents_are_squashed_sums_of_coupled_votes(capsules, vote_weights):
    routing = ConstantRouting(6, 4, 3, 5, vote_weights=vote_weights).double()
    torch.nn.init.normal_(routing.logits)
    parents, couplings = routing(capsules), routing.couplings(capsules)
    shares = np.exp(routing.logits.detach().numpy())
    shares /= shares.sum(axis=1, keepdims=True)
    weight = routing.weight.detach().numpy()
    for n in range(2):
        np.testing.assert_allclose(couplings[n].detach(), shares, atol=1e-9, rtol=0)
        for j in range(3):
            s = sum(shares[i, j] * weight[i % len(weight), j] @ capsules.poses[n, i].numpy() for i in range(6))
            length = np.sqrt(s @ s)
            v = length**2 / (1 + length**2) * s / length
            np.testing.assert_allclose(parents.poses[n, j].detach(), v, atol=1e-9, rtol=0)
            np.testing.assert_allclose(parents.activations[n, j].item(), np.sqrt(v @ v), atol=1e-9, rtol=0)


@pytest.mark.parametrize("vote_weights", [None, 2])
def test_begins_as_uniform_routing(capsules, vote_weights):
    constant, uniform = (c(6, 4, 3, 5, vote_weights=vote_weights).double() for c in (ConstantRouting, UniformRouting))
    uniform.load_state_dict({"weight": constant.weight})
    assert_close(constant(capsules), uniform(capsules))
    assert_close(constant.couplings(capsules), uniform.couplings(capsules))


@pytest.mark.parametrize("rows", [6, 2])
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_gradient_is_the_numerical_one(size, rows):
    shapes = {(2, 6, 4): size, (rows, 3, 5, 4): 0.1, (6, 3): 1.0}
    arguments = tuple((std * torch.randn(n, dtype=torch.float64)).requires_grad_() for n, std in shapes.items())
    assert torch.autograd.gradcheck(constant_routing, arguments)
