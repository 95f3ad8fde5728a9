"""Dynamic routing: equal to the paper's procedure written as plain loops, in value; and its gradient."""

from math import log

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.votes import vote
from capsule_lightning.routing.dynamic import DynamicRouting, dynamic_routing


def procedure_1(poses, weight, iterations, bias=None, leaky=False):
    """Procedure 1 for one example, as the paper writes it.

    ``poses (I, D)``, ``weight (I, J, E, D)``, ``bias (J, E)``; returns ``v (J, E)`` and ``c (I, J)``.
    """
    children, parents = weight.shape[:2]
    b = np.zeros((children, parents))
    for _ in range(iterations):
        c = np.exp(b)
        for i in range(children):
            c[i] /= sum(c[i]) + (np.exp(0) if leaky else 0)
        v = []
        for j in range(parents):
            s = sum(c[i, j] * weight[i, j] @ poses[i] for i in range(children))
            s = s if bias is None else s + bias[j]
            v.append((s @ s) / (1 + s @ s) * s / np.sqrt(s @ s))
        for i in range(children):
            for j in range(parents):
                b[i, j] += weight[i, j] @ poses[i] @ v[j]
    return np.array(v), c


def random_votes(*shape):
    """Votes in float64 that want a gradient."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_equals_the_procedure_of_the_paper(iterations, bias, leaky):
    routing = DynamicRouting(6, 4, 3, 5, iterations=iterations, bias=bias, leaky=leaky).double()
    with torch.no_grad():
        for parameter in routing.parameters():
            parameter.normal_()
        poses = torch.randn(2, 6, 4, dtype=torch.float64)
        parents, couplings = routing(Capsules.from_vectors(poses)), routing.couplings(Capsules.from_vectors(poses))
    for n in range(2):
        v, c = procedure_1(
            poses[n].numpy(),
            routing.weight.detach().numpy(),
            iterations,
            bias=routing.bias.detach().numpy() if bias else None,
            leaky=leaky,
        )
        np.testing.assert_allclose(parents.poses[n], v, atol=1e-10, rtol=0)
        np.testing.assert_allclose(parents.activations[n], np.linalg.norm(v, axis=-1), atol=1e-10, rtol=0)
        np.testing.assert_allclose(couplings[n], c, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("classes", "leaky", "coupling"), [(10, False, 1 / 10), (10, True, 1 / 11), (1, False, 1), (1, True, 1 / 2)]
)
def test_one_pass_couples_each_child_equally_to_all_classes(classes, leaky, coupling):
    _, couplings = dynamic_routing(torch.randn(5, classes, 4), iterations=1, leaky=leaky)
    assert_close(couplings, torch.full((5, classes), float(coupling)))


def test_couplings_are_a_softmax_over_the_parents():
    logits = torch.tensor([[0.0, log(3)]])
    assert_close(coupling_coefficients(logits), torch.tensor([[0.25, 0.75]]))
    assert_close(coupling_coefficients(logits, leaky=True), torch.tensor([[0.2, 0.6]]))


def test_children_couple_to_the_parent_they_agree_about():
    agreement, quarrel = torch.tensor([1.0, 0.0]).expand(4, 2), torch.eye(2).repeat(2, 1) * torch.tensor([1.0, -1.0])
    _, couplings = dynamic_routing(torch.stack([agreement, quarrel], dim=1))
    assert (couplings[:, 0] > 0.6).all()


def test_bias_starts_at_a_tenth_and_is_absent_by_default():
    assert DynamicRouting(6, 4, 3, 5).bias is None
    assert_close(DynamicRouting(6, 4, 3, 5, bias=True).bias.detach(), torch.full((3, 5), 0.1))


@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("iterations", [1, 3])
def test_gradient_is_the_numerical_one(iterations, leaky, start):
    votes, bias = (start * random_votes(3, 2, 4)).detach().requires_grad_(), random_votes(2, 4)
    torch.autograd.gradcheck(lambda v, b: dynamic_routing(v, iterations, b, leaky)[0], (votes, bias))
    torch.autograd.gradcheck(lambda v: dynamic_routing(v, iterations, None, leaky), votes)


def test_detach_keeps_the_value_and_holds_the_couplings_constant():
    votes = random_votes(2, 5, 3, 4)
    full, _ = dynamic_routing(votes)
    cheap, couplings = dynamic_routing(votes, detach=True)
    one_pass = squash(torch.einsum("bij,bije->bje", couplings.detach(), votes))
    full_gradient, gradient, expected = (torch.autograd.grad(v.sum(), votes)[0] for v in (full, cheap, one_pass))
    assert not couplings.requires_grad
    assert_close(cheap, full, rtol=0, atol=0)
    assert_close(gradient, expected)
    assert (full_gradient - gradient).abs().max() > 0.01


def test_detach_changes_the_gradient_of_the_layer_and_not_its_value():
    full, cheap = DynamicRouting(6, 4, 3, 5, bias=True), DynamicRouting(6, 4, 3, 5, bias=True, detach=True)
    cheap.load_state_dict(full.state_dict())
    capsules = Capsules.from_vectors(torch.randn(2, 6, 4))
    for routing in (full, cheap):
        routing(capsules).activations.sum().backward()
    assert_close(cheap(capsules), full(capsules), rtol=0, atol=0)
    assert not torch.allclose(cheap.weight.grad, full.weight.grad)
    assert not torch.allclose(cheap.bias.grad, full.bias.grad)


def test_routes_the_votes_of_its_weight():
    routing = DynamicRouting(6, 4, 3, 5, iterations=2)
    capsules = Capsules.from_vectors(torch.randn(2, 6, 4))
    assert_close(routing(capsules).poses, dynamic_routing(vote(capsules.poses, routing.weight), 2)[0])


def test_routes_in_float32_under_autocast():
    votes = torch.randn(2, 6, 3, 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = dynamic_routing(votes)
    assert_close(narrow, dynamic_routing(votes.float()), rtol=0, atol=0)


@pytest.mark.parametrize("iterations", [0, -1])
def test_fewer_than_one_pass_is_refused(iterations):
    with pytest.raises(InputError, match=f"iterations={iterations}: expected at least 1"):
        DynamicRouting(6, 4, 3, 5, iterations=iterations)
    with pytest.raises(InputError, match=f"iterations={iterations}: expected at least 1"):
        dynamic_routing(torch.zeros(6, 3, 5), iterations)
