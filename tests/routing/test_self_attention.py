"""Self-attention routing: equal to the paper's formulas written as plain loops over all pairs of votes."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.routing.self_attention import SelfAttentionRouting, self_attention_routing

CHILDREN, PARENTS, DIM = 6, 3, 5


def attention(votes, prior):
    """Mazzia et al. 2021 for one example, with the matrix of pairs; ``votes (I, J, E)``, ``prior (I, J)``."""
    a = np.zeros((CHILDREN, PARENTS))
    for j in range(PARENTS):
        pairs = votes[:, j] @ votes[:, j].T / np.sqrt(DIM)
        a[:, j] = pairs.sum(axis=1)
    c = np.exp(a - a.max(axis=1, keepdims=True))
    c /= c.sum(axis=1, keepdims=True)
    v = []
    for j in range(PARENTS):
        s = sum((c[i, j] + prior[i, j]) * votes[i, j] for i in range(CHILDREN))
        n = np.sqrt(s @ s)
        v.append((1 - np.exp(-n)) * s / n)
    return np.array(v), c


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_equals_the_formulas_of_the_paper(scale):
    votes = torch.randn(2, CHILDREN, PARENTS, DIM, dtype=torch.float64)
    prior = scale * torch.randn(CHILDREN, PARENTS, dtype=torch.float64)
    poses, couplings = self_attention_routing(votes, prior)
    for n in range(2):
        v, c = attention(votes[n].numpy(), prior.numpy())
        np.testing.assert_allclose(poses[n], v, atol=1e-10, rtol=0)
        np.testing.assert_allclose(couplings[n], c, atol=1e-10, rtol=0)


def test_gradient():
    votes, prior = (
        torch.randn(*n, PARENTS, *e, dtype=torch.float64, requires_grad=True) for n, e in (((4,), (5,)), ((4,), ()))
    )
    assert torch.autograd.gradcheck(self_attention_routing, (votes, prior))


def test_the_prior_begins_at_zero_and_can_be_left_out():
    with_prior, without = SelfAttentionRouting(6, 4, 3, 5), SelfAttentionRouting(6, 4, 3, 5, prior=False)
    assert not with_prior.prior.any()
    assert "prior" not in without.state_dict()
    without.load_state_dict({"weight": with_prior.weight})
    capsules = Capsules.from_vectors(torch.randn(2, 6, 4))
    assert_close(without(capsules), with_prior(capsules))
    torch.nn.init.constant_(with_prior.prior, 0.5)
    assert not torch.allclose(without(capsules).poses, with_prior(capsules).poses)


def test_parameters_of_the_papers_network():
    assert sum(p.numel() for p in SelfAttentionRouting(16, 8, 10, 16).parameters()) == 161_824 - 141_184
    # He-normal with every pair of capsules counted into the fan, as the released code's initializer does
    assert_close(SelfAttentionRouting(16, 8, 10, 16).weight.std().item(), (2 / (16 * 10 * 8)) ** 0.5, rtol=0.03, atol=0)
