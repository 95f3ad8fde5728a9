"""EM routing: equal to the paper's procedure written as plain loops, in one window and across positions."""

import numpy as np
import pytest
import torch
from matrix_routing import CHILDREN, DIM, PARENTS, case, convolution, one_window, procedure, windows
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.matrix import MatrixEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.conv_capsnet import ConvCapsNet
from capsule_lightning.routing.em import EMRouting, em_routing

LEAST = 5e-4


def em(beta_u, beta_a, final_lambda=0.01, mode="paper", damping=0.0):
    """The M-step and the E-step of the paper for the parents of one window, as `procedure` takes them."""
    previous = {}

    def fit(votes, weights, t):
        means, variances, activations = [], [], []
        for j in range(votes.shape[1]):
            mass = sum(weights[:, j])
            mean = sum(weights[i, j] * votes[i, j] for i in range(len(votes))) / mass
            if damping:
                key = (votes.tobytes(), j)
                mean = (1 - damping) * mean + damping * previous.get(key, 0.0)
                previous[key] = mean
            variance = sum(weights[i, j] * (votes[i, j] - mean) ** 2 for i in range(len(votes))) / mass + LEAST
            log_spread = np.log(np.sqrt(variance)) if mode == "paper" else np.log(variance)
            cost = sum((beta_u[j] + log_spread[h]) * mass for h in range(votes.shape[2]))
            inverse_temperature = final_lambda * (1 - 0.95 ** (t + 1))
            activations.append(1 / (1 + np.exp(-inverse_temperature * (beta_a[j] - cost))))
            means.append(mean)
            variances.append(variance)
        return np.array(means), np.array(variances), np.array(activations)

    def log_weights(votes, parents):
        logits = np.zeros(votes.shape[:2])
        for i, j in np.ndindex(*logits.shape):
            mean, variance, activation = (part[j] for part in parents)
            density = np.exp(-((votes[i, j] - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
            logits[i, j] = np.log(activation) + np.log(density).sum()
        return logits

    return fit, log_weights


@pytest.mark.parametrize("mode", ["paper", "official"])
@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_equals_the_procedure_of_the_paper(iterations, damping, mode):
    votes, activations, beta_u, beta_a = (part.detach() for part in case(2))
    options = {"final_lambda": 0.1, "damping": damping, "mode": mode}
    poses, parent_activations, couplings = em_routing(
        votes, activations, beta_u, beta_a, iterations, min_variance=LEAST, **options
    )
    for n in range(2):
        steps = em(beta_u.numpy(), beta_a.numpy(), **options)
        parents, r = one_window(votes[n].numpy(), activations[n].numpy(), steps, iterations)
        np.testing.assert_allclose(poses[n], parents[0], atol=1e-9, rtol=0)
        np.testing.assert_allclose(parent_activations[n], parents[2], atol=1e-9, rtol=0)
        np.testing.assert_allclose(couplings[n], r, atol=1e-9, rtol=0)


@pytest.mark.parametrize("competition", ["positions", "window", "type"])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (1, 1)])
def test_a_child_divides_itself_among_the_parents_of_all_positions_that_see_it(stride, padding, competition):
    layer, maps = convolution(EMRouting, stride, padding, competition)
    with torch.no_grad():
        layer.routing.beta_a *= 100
        found, couplings = layer(maps), layer.couplings(maps)
    votes, activations, children = windows(layer, maps)
    if competition == "window":
        children = np.arange(children.size).reshape(children.shape)
    steps = em(layer.routing.beta_u.detach().numpy(), layer.routing.beta_a.detach().numpy())
    released = {"start": 1 / PARENTS, "within_types": True} if competition == "type" else {}
    parents, r = procedure(votes, activations, children, *steps, iterations=3, **released)
    poses, _, parent_activations = (np.array(part) for part in zip(*parents, strict=True))
    np.testing.assert_allclose(found.poses[0].flatten(0, 1), poses, atol=1e-9, rtol=0)
    np.testing.assert_allclose(found.activations[0].flatten(0, 1), parent_activations, atol=1e-9, rtol=0)
    np.testing.assert_allclose(couplings[0].flatten(0, 1), r, atol=1e-9, rtol=0)


@pytest.mark.parametrize("mode", ["paper", "official"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_gradient_is_the_numerical_one(iterations, mode):
    assert torch.autograd.gradcheck(
        lambda *inputs: em_routing(*inputs, iterations, damping=0.1, mode=mode, min_variance=0.1), case()
    )


def test_votes_that_agree_about_a_distant_pose_keep_their_variance():
    _, activations, beta_u, beta_a = (part.detach() for part in case())
    votes = 1000 + 0.01 * torch.randn(CHILDREN, PARENTS, DIM, dtype=torch.float64)
    wide = em_routing(votes, activations, beta_u, beta_a, final_lambda=1.0)
    narrow = em_routing(votes.float(), activations.float(), beta_u.float(), beta_a.float(), final_lambda=1.0)
    assert_close(narrow[1], wide[1], rtol=0, atol=0.01, check_dtype=False)


def test_nothing_as_large_as_the_votes_is_kept_but_the_votes():
    votes, *others = (part.detach().requires_grad_() for part in case(4, dim=64))
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        poses, _, _ = em_routing(votes, *others)
    assert poses.requires_grad
    assert [size for size in kept.values() if size >= votes.nbytes] == [votes.nbytes]


def test_a_parent_of_one_child_stands_at_its_vote():
    votes = torch.randn(1, PARENTS, DIM, dtype=torch.float64)
    poses, activations, couplings = em_routing(
        votes, torch.ones(1).double(), torch.zeros(PARENTS).double(), torch.zeros(PARENTS).double()
    )
    assert_close(poses, votes[0])
    assert_close(couplings, torch.full((1, PARENTS), 1 / PARENTS, dtype=torch.float64))
    cost = DIM * 0.5 * np.log(LEAST) / PARENTS
    assert_close(activations, torch.sigmoid(torch.full((PARENTS,), -0.01 * (1 - 0.95**3) * cost).double()))


def test_children_couple_to_the_parent_that_they_agree_about():
    agreement = 0.01 * torch.randn(8, 4)
    quarrel = torch.randn(8, 4)
    _, activations, couplings = em_routing(
        torch.stack([agreement, quarrel], dim=1), torch.ones(8), torch.zeros(2), torch.zeros(2)
    )
    assert (couplings[:, 0] > 0.9).all()
    assert activations[0] > activations[1]


def test_absent_children_have_no_say():
    votes, activations, beta_u, beta_a = (part.detach() for part in case())
    activations[-1] = 0
    with_absent = em_routing(votes, activations, beta_u, beta_a)
    without = em_routing(votes[:-1], activations[:-1], beta_u, beta_a)
    assert_close(with_absent[:2], without[:2])


def test_routes_in_float32_under_autocast():
    votes, *others = (part.detach().float() for part in case(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = em_routing(votes.bfloat16(), *others)
    assert_close(narrow, em_routing(votes.bfloat16().float(), *others), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("encoder", "types", "expected"),
    [
        ({}, (32, 32), 317_194),
        ({"channels": 64, "num_types": 8}, (16, 16), 68_754),
    ],
)
def test_parameters_of_the_papers_networks(encoder, types, expected):
    net = ConvCapsNet((2, 32, 32), 5, encoder=lambda shape: MatrixEncoder(shape, **encoder), types=types)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected


def test_the_released_codes_activation():
    routing = EMRouting(CHILDREN, DIM, PARENTS, DIM, mode="official", damping=0.1, iterations=1).double()
    with torch.no_grad():
        routing.beta_u.copy_(sigma_bias := torch.tensor([0.5, 1.0, 2.0]))
        routing.beta_a.copy_(activation_bias := torch.tensor([0.5, 0.1, -0.2]))
    capsules = Capsules(torch.randn(CHILDREN, DIM).double(), torch.rand(CHILDREN).double())
    votes, weights = routing.votes(capsules.poses).detach().numpy(), capsules.activations.numpy() / PARENTS
    mass = weights.sum()
    mean = 0.9 * np.einsum("i,ije->je", weights, votes) / mass
    log_variance = np.log(np.einsum("i,ije->je", weights, (votes - mean) ** 2) / mass + 0.0005).sum(axis=-1)
    gain = mass * (-log_variance - sigma_bias.numpy() * DIM * (np.log(2 * np.pi) + 1)) - 5000 * activation_bias.numpy()
    parents = routing(capsules)
    np.testing.assert_allclose(parents.poses.detach(), mean, atol=1e-9, rtol=0)
    np.testing.assert_allclose(parents.activations.detach(), 1 / (1 + np.exp(-0.0005 * gain)), atol=1e-6, rtol=0)


def test_the_released_codes_parameters_start_elsewhere_and_learn():
    paper, official = (EMRouting(CHILDREN, DIM, PARENTS, DIM, mode=mode) for mode in ("paper", "official"))
    assert not paper.beta_u.any()
    assert not paper.beta_a.any()
    for beta in (official.beta_u, official.beta_a):
        assert_close(beta.detach(), torch.full((PARENTS,), 0.5))
    official(Capsules(torch.randn(2, CHILDREN, DIM), torch.rand(2, CHILDREN))).activations.sum().backward()
    assert all(parameter.grad.all() for parameter in official.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"iterations": 0}, "iterations=0: expected at least 1"),
        ({"min_variance": 0.0}, "min_variance=0.0: expected a number above 0"),
        ({"damping": 1.0}, "damping=1.0: expected 0 or more and less than 1"),
        ({"mode": "released"}, "mode='released': expected one of paper, official"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        EMRouting(CHILDREN, DIM, PARENTS, DIM, **wrong)
    with pytest.raises(InputError, match=message):
        em_routing(*case(), **wrong)
