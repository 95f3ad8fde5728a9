"""Routing by kernel density: equal to a plain loop that stops by itself, example by example."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.squash import squash
from capsule_lightning.routing.kernel_density import KDERouting


def squashed(s):
    return np.sqrt(s @ s) / (0.5 + s @ s) * s


def plain(votes, here, most, tolerance):
    """One example: ``votes (I, J, E)``; returns ``v (J, E)``, ``c (I, J)`` and the number of passes."""
    children, parents, _ = votes.shape
    b, before, passes = np.zeros((children, parents)), None, 0
    while True:
        c, w = np.zeros((children, parents)), np.zeros((children, parents))
        for i in range(children):
            for j in range(parents):
                c[i, j] = np.exp(b[i, j]) / sum(np.exp(b[i, k]) for k in range(parents))
        for j in range(parents):
            for i in range(children):
                w[i, j] = here[i] * c[i, j] / sum(here[k] * c[k, j] for k in range(children))
        v = [squashed(sum(w[i, j] * votes[i, j] for i in range(children))) for j in range(parents)]
        passes += 1
        density = 0.0
        for i in range(children):
            for j in range(parents):
                d = 1 - sum((squashed(votes[i, j]) - v[j]) ** 2)
                b[i, j] += d
                density += w[i, j] * d
        now = np.log(max(density, 1e-6))
        if passes == most or (before is not None and abs(now - before) < tolerance):
            return np.array(v), c, passes
        before = now


@pytest.fixture
def routing():
    torch.manual_seed(0)
    routing = KDERouting(6, 4, 3, 5, vote_weights=2, tolerance=0.01).double()
    torch.nn.init.normal_(routing.weight)
    return routing


@pytest.fixture
def children():
    """Eight examples of unlike spread, the last child of each not there."""
    poses = squash(torch.randn(8, 6, 4, dtype=torch.float64) * torch.logspace(-1, 0.7, 8).view(-1, 1, 1))
    poses[:, -1] = 0
    return Capsules.from_vectors(poses)


def test_equals_a_plain_loop_that_stops_each_example_by_itself(routing, children):
    with torch.no_grad():
        parents, couplings = routing(children), routing.couplings(children)
        passes, votes = routing.passes(children), routing.votes(children.poses)
    expected = [plain(votes[n].numpy(), [1, 1, 1, 1, 1, 0], 10, 0.01) for n in range(8)]
    assert passes.tolist() == [each[2] for each in expected]
    assert len(set(passes.tolist())) > 1  # so the rule of one is not that of another
    for n, (v, c, _) in enumerate(expected):
        np.testing.assert_allclose(parents.poses[n], v, atol=1e-12)
        np.testing.assert_allclose(couplings[n], c, atol=1e-12)


def test_a_child_that_is_not_there_changes_nothing(routing, children):
    shared = KDERouting(6, 4, 3, 5, vote_weights=1).double()
    fewer = Capsules(children.poses[:, :5], children.activations[:, :5])
    assert_close(shared(children), shared(fewer))
    nobody = shared(Capsules(torch.zeros_like(children.poses), torch.zeros_like(children.activations)))
    assert not nobody.poses.any()


def test_all_passes_are_made_if_nothing_stops_them(routing, children):
    routing.tolerance, routing.iterations = None, 4
    assert routing.passes(children).tolist() == [4] * 8


def test_density_below_zero_ends_too():
    """Votes that oppose each other and are long have a negative density, of which the released code never ends."""
    routing = KDERouting(2, 2, 1, 2, iterations=50).double()
    with torch.no_grad():
        routing.weight.copy_(torch.eye(2).expand(2, 1, 2, 2))
    poses = torch.tensor([[[100.0, 0.0], [-100.0, 0.0]]], dtype=torch.float64)
    children = Capsules.from_vectors(poses)
    assert routing(children).poses.isfinite().all()
    assert routing.passes(children).item() <= 3


@pytest.mark.nightly
def test_gradient_is_the_numerical_one(routing):
    poses = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    routing.tolerance, routing.iterations = None, 3
    assert torch.autograd.gradcheck(lambda p: routing(Capsules.from_vectors(p)).poses, poses)


@pytest.mark.parametrize("options", [{"tolerance": -0.1}, {"tolerance": float("nan")}, {"offset": 0}])
def test_what_cannot_be_is_refused(options):
    with pytest.raises(InputError, match="expected a number"):
        KDERouting(6, 4, 3, 5, **options)
