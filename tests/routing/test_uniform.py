"""Uniform routing: the same function as one pass of dynamic routing, and the mean of the votes."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.layers.squash import squash
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.uniform import UniformRouting


@pytest.fixture
def capsules():
    torch.manual_seed(0)
    return Capsules.from_vectors(torch.randn(2, 6, 4, dtype=torch.float64))


@pytest.fixture
def routing(capsules):
    return UniformRouting(6, 4, 3, 5).double()


def test_equals_one_pass_of_dynamic_routing(capsules, routing):
    dynamic = DynamicRouting(6, 4, 3, 5, iterations=1).double()
    dynamic.load_state_dict(routing.state_dict())
    assert_close(routing(capsules), dynamic(capsules), rtol=1e-12, atol=1e-12)
    assert_close(routing.couplings(capsules), dynamic.couplings(capsules), rtol=1e-12, atol=1e-12)


def test_gradient_equals_that_of_one_pass_of_dynamic_routing(capsules, routing):
    dynamic = DynamicRouting(6, 4, 3, 5, iterations=1).double()
    dynamic.load_state_dict(routing.state_dict())
    for net in (routing, dynamic):
        net(capsules).activations.sum().backward()
    assert_close(routing.weight.grad, dynamic.weight.grad, rtol=1e-12, atol=1e-12)


def test_parent_is_the_squashed_mean_of_matrix_times_pose(capsules, routing):
    poses = routing(capsules).poses
    for j in range(3):
        s = sum(routing.weight[i, j] @ capsules.poses[1, i] for i in range(6)) / 3
        assert_close(poses[1, j], squash(s))


def test_ten_classes_get_a_tenth_each(capsules):
    couplings = UniformRouting(6, 4, 10, 5).couplings(capsules)
    assert_close(couplings, torch.full((2, 6, 10), 0.1, dtype=torch.float64))


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_gradient_is_the_numerical_one(routing, start):
    poses = (start * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()
    torch.autograd.gradcheck(lambda p: routing(Capsules(p, p.norm(dim=-1).detach())).poses, poses)
