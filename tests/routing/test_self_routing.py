"""Self-routing: equal to the paper's formulas written as plain loops, finite where no child is active or chooses."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.resnet import ResNetEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.layers.votes import vote
from capsule_lightning.models.conv_capsnet import ConvCapsNet
from capsule_lightning.routing import self_routing as self_routing_module
from capsule_lightning.routing.self_routing import SelfRouting, self_routing, weighted_votes

CHILDREN, CHILD_DIM, PARENTS, DIM = 6, 4, 3, 5


def route(poses, activations, weight, route_weight, route_bias):
    """Hahn et al. 2019 for one example, ``poses (I, D), activations (I)``; without ``weight`` children are votes."""
    num_in, (count, num_out, _) = len(poses), route_weight.shape
    c = np.zeros((num_in, num_out))
    for i in range(num_in):
        logits = route_weight[i % count] @ poses[i] + route_bias[i % count]
        c[i] = np.exp(logits) / np.exp(logits).sum()
    a, u = [], []
    for j in range(num_out):
        total = sum(c[i, j] * activations[i] for i in range(num_in))
        votes = [poses[i] if weight is None else weight[i % count, j] @ poses[i] for i in range(num_in)]
        a.append(total / activations.sum())
        u.append(sum(c[i, j] * activations[i] * votes[i] for i in range(num_in)) / total)
    return np.array(u), np.array(a), c


def routing(dim_out=DIM, **options):
    """In float64, the weights away from where they start."""
    net = SelfRouting(CHILDREN, CHILD_DIM, PARENTS, dim_out, **options)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    return net.double()


def children(*leading):
    poses = torch.randn(*leading, CHILDREN, CHILD_DIM, dtype=torch.float64)
    return Capsules(poses, torch.rand(*leading, CHILDREN, dtype=torch.float64))


@pytest.mark.parametrize("vote_weights", [None, 2, 1])
@pytest.mark.parametrize(("dim_out", "poses"), [(DIM, True), (CHILD_DIM, False)])
def test_equals_the_formulas_of_the_paper(dim_out, poses, vote_weights):
    net, capsules = routing(dim_out, poses=poses, vote_weights=vote_weights), children(2)
    weights = [net.weight if poses else None, net.route_weight, net.route_bias]
    weights = [None if weight is None else weight.detach().numpy() for weight in weights]
    with torch.no_grad():
        parents, couplings = net(capsules), net.couplings(capsules)
    for n in range(2):
        u, a, c = route(capsules.poses[n].numpy(), capsules.activations[n].numpy(), *weights)
        np.testing.assert_allclose(parents.poses[n], u, atol=1e-9, rtol=0)
        np.testing.assert_allclose(parents.activations[n], a, atol=1e-9, rtol=0)
        np.testing.assert_allclose(couplings[n], c, atol=1e-9, rtol=0)


@pytest.mark.parametrize("most", [0, 10**9, 2 * 6 * CHILDREN * CHILD_DIM], ids=["one", "all", "two"])
@pytest.mark.parametrize("count", [CHILDREN, 2, 1])
@pytest.mark.parametrize("leading", [(), (2, 3)])
def test_weighted_votes_are_what_the_votes_give(leading, count, most, monkeypatch):
    monkeypatch.setitem(self_routing_module._MOST_WEIGHTED, "cpu", most)  # as many parents at once as on a GPU
    shares, poses, weight = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((*leading, CHILDREN, PARENTS), (*leading, CHILDREN, CHILD_DIM), (count, PARENTS, DIM, CHILD_DIM))
    )
    lean, plain = (
        weighted_votes(shares, poses, weight),
        torch.einsum("...ij,...ije->...je", shares, vote(poses, weight)),
    )
    assert_close(lean, plain)
    direction = torch.randn_like(plain)
    for gradient, expected in zip(
        *(torch.autograd.grad(result, (shares, poses, weight), direction) for result in (lean, plain)), strict=True
    ):
        assert_close(gradient, expected)


def test_gradient():
    logits, activations = (torch.rand(2, *n, dtype=torch.float64, requires_grad=True) for n in ((5, PARENTS), (5,)))
    assert torch.autograd.gradcheck(self_routing, (logits, activations))


def test_begins_as_the_mean_of_votes_at_equal_activations():
    net, capsules = SelfRouting(CHILDREN, CHILD_DIM, PARENTS, DIM), children(2)
    capsules = Capsules(capsules.poses.float(), torch.full((2, CHILDREN), 0.5))
    parents = net(capsules)
    assert_close(parents.poses, vote(capsules.poses, net.weight).mean(dim=-3))
    assert_close(parents.activations, torch.full((2, PARENTS), 1 / PARENTS))


def test_vote_weights_begin_uniform_with_the_variance_of_kaiming():
    weight = SelfRouting(288, 16, 32, 16).weight
    assert_close(weight.std().item(), (2 / 16) ** 0.5, rtol=0.01, atol=0)
    assert weight.abs().max() <= (6 / 16) ** 0.5


def test_activations_sum_to_one_whatever_the_children():
    for scale in (0.0, 1e-20, 1.0):
        capsules = children(2)
        parents = routing()(capsules._replace(activations=scale * capsules.activations))
        assert_close(parents.activations.sum(dim=-1), torch.ones(2, dtype=torch.float64))


def test_children_that_are_silent_do_not_count():
    net, capsules = routing(), children(1)
    half = CHILDREN // 2
    few = SelfRouting(half, CHILD_DIM, PARENTS, DIM).double()
    few.load_state_dict({name: parameter[:half] for name, parameter in net.state_dict().items()})
    expected = few(Capsules(capsules.poses[:, :half], capsules.activations[:, :half]))
    capsules.activations[:, half:] = 0
    assert_close(net(capsules), expected, atol=1e-6, rtol=0)


def test_where_no_child_is_active_all_count_equally():
    net, capsules = routing(), children(1)
    capsules.activations.zero_().requires_grad_()
    parents = net(capsules)
    assert_close(parents, net(Capsules(capsules.poses, torch.ones_like(capsules.activations))))
    (gradient,) = torch.autograd.grad(parents.poses.sum(), capsules.activations)
    assert not gradient.any()


def test_parents_that_no_child_chooses_have_finite_poses():
    net, capsules = routing().float(), Capsules(*(x.float() for x in children(1)))
    with torch.no_grad():
        net.route_bias[:, 0] = -1e4  # couplings of exactly zero in float32
    parents = net(capsules)
    gradients = torch.autograd.grad(parents.poses.sum() + parents.activations[..., 0].sum(), net.parameters())
    assert parents.activations[0, 0] == 0
    assert parents.poses.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_normalize_is_batch_normalization_over_all_leading_dimensions():
    net, capsules = routing(normalize=True), children(4, 3)
    torch.nn.init.ones_(net.norm.weight)
    torch.nn.init.zeros_(net.norm.bias)
    poses = net(capsules).poses
    assert_close(poses.mean(dim=(0, 1)), torch.zeros(PARENTS, DIM, dtype=torch.float64))
    assert_close(poses.var(dim=(0, 1), correction=0), torch.ones(PARENTS, DIM, dtype=torch.float64), atol=0.01, rtol=0)


def test_compiles_without_a_graph_break():
    net, capsules = SelfRouting(CHILDREN, CHILD_DIM, PARENTS, DIM), Capsules(*(x.float() for x in children(2)))
    assert_close(torch.compile(net, fullgraph=True, backend="eager")(capsules), net(capsules))


def test_without_votes_the_dimensions_must_agree():
    with pytest.raises(InputError, match="children of 8 and parents of 16 dimensions"):
        SelfRouting(6, 8, 3, 16, poses=False)


@pytest.mark.parametrize(
    ("types", "of_layers", "millions"),
    [((), 2048 * 10 * 17, 0.9), ((32,), 288 * 32 * (16 * 16 + 17) + 2 * 512 + 512 * 10 * 17, 3.2)],
    ids=["one", "two"],
)
def test_parameters_of_the_papers_networks(types, of_layers, millions):
    count = len(types)
    with torch.device("meta"):
        net = ConvCapsNet(
            (3, 32, 32), 10, encoder=ResNetEncoder, routing=partial(SelfRouting, normalize=True),
            class_routing=partial(SelfRouting, poses=False), types=types, kernel_sizes=[3] * count,
            strides=[2] * count, paddings=[1] * count, share_class_votes=False, coordinates=False,
        )  # fmt: skip
    assert sum(p.numel() for p in net.layers.parameters()) == of_layers
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == millions
