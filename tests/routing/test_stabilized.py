"""Routing for text: leaky softmax, amendment and squash of Zhao et al. 2018, equal to plain loops."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.squash import squash
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.stabilized import StabilizedRouting


def plain(poses, activations, weight, iterations, leaky, amendment, offset):
    """One example: ``poses (I, D)``, ``weight (K, J, E, D)``; returns ``v (J, E)`` and ``c (I, J)``."""
    children, parents = len(poses), weight.shape[1]
    votes = [[weight[i % len(weight), j] @ poses[i] for j in range(parents)] for i in range(children)]
    b = np.zeros((children, parents))
    for _ in range(iterations):
        c = np.zeros((children, parents))
        for i in range(children):
            total = (1.0 if leaky else 0.0) + sum(np.exp(b[i, k]) for k in range(parents))
            for j in range(parents):
                c[i, j] = np.exp(b[i, j]) / total * (activations[i] if amendment else 1.0)
        v = []
        for j in range(parents):
            s = sum(c[i, j] * votes[i][j] for i in range(children))
            v.append(np.sqrt(s @ s) / (offset + s @ s) * s)
        for i in range(children):
            for j in range(parents):
                b[i, j] += votes[i][j] @ v[j]
    return np.array(v), c


@pytest.mark.parametrize("vote_weights", [None, 1, 2])
@pytest.mark.parametrize(("leaky", "amendment"), [(True, True), (True, False), (False, True), (False, False)])
def test_equals_a_plain_loop(vote_weights, leaky, amendment):
    torch.manual_seed(0)
    routing = StabilizedRouting(6, 4, 3, 5, vote_weights=vote_weights, leaky=leaky, amendment=amendment).double()
    torch.nn.init.normal_(routing.weight)
    children = Capsules.from_vectors(squash(torch.randn(2, 6, 4, dtype=torch.float64)))
    with torch.no_grad():
        parents, couplings = routing(children), routing.couplings(children)
    for n in range(2):
        given = children.poses[n].numpy(), children.activations[n].numpy(), routing.weight.detach().numpy()
        v, c = plain(*given, 3, leaky, amendment, 0.5)
        np.testing.assert_allclose(parents.poses[n], v, atol=1e-12)
        np.testing.assert_allclose(couplings[n], c, atol=1e-12)


def test_without_switches_it_is_dynamic_routing():
    torch.manual_seed(0)
    settings = {"vote_weights": 2, "leaky": False}
    one = StabilizedRouting(6, 4, 3, 5, **settings, amendment=False, offset=1.0).double()
    other = DynamicRouting(6, 4, 3, 5, **settings).double()
    other.load_state_dict(one.state_dict())
    children = Capsules.from_vectors(torch.randn(2, 6, 4, dtype=torch.float64))
    assert_close(one(children), other(children))


@pytest.mark.nightly
def test_gradient_without_votes_is_the_numerical_one():
    torch.manual_seed(0)
    routing = StabilizedRouting(4, 3, 2, 3, vote_weights=1).double()
    torch.nn.init.normal_(routing.weight)
    poses = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda p, w: torch.func.functional_call(routing, {"weight": w}, (Capsules.from_vectors(p),)).poses,
        (poses, routing.weight),
    )


def test_a_squash_without_offset_is_refused():
    with pytest.raises(InputError, match="offset=0"):
        StabilizedRouting(6, 4, 3, 5, offset=0)
