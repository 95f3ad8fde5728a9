"""Inverted dot-product attention: equal to the paper's procedures written as plain loops, alone and in the network."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import MapEncoder
from capsule_lightning.encoders.resnet import ResNetEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.conv_capsnet import ConvCapsNet
from capsule_lightning.models.conv_capsules import ConvCapsules
from capsule_lightning.routing.inverted_dot_product import (
    InvertedDotProductRouting,
    inverted_dot_product_routing,
    normalized_mean,
)

CHILDREN, PARENTS, DIM = 6, 3, 4
POSES = pytest.mark.parametrize("pose", ["matrix", "vector"])


def votes_of(poses, weight, matrix):
    """Votes ``(I, J, E)`` of one example, ``poses (I, D)``; child i uses ``weight`` i modulo K."""
    votes = []
    for i, pose in enumerate(poses):
        maps = weight[i % len(weight)]
        n = maps.shape[-1]
        votes.append([(pose.reshape(n, n) @ w).ravel() if matrix else w @ pose for w in maps])
    return np.array(votes)


def layer_norm(x, weight, bias):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def one_round(votes, parents, weight, bias, scaled=True):
    """A round of Tsai et al. 2020, Procedure 1, for one example; ``parents (J, E)``, or None at the start."""
    num_in, num_out, dim = votes.shape
    scale = np.sqrt(dim) if scaled else 1
    r = np.zeros((num_in, num_out))
    for i in range(num_in):
        o = [0.0 if parents is None else parents[j] @ votes[i, j] / scale for j in range(num_out)]
        r[i] = np.exp(o - np.max(o)) / np.exp(o - np.max(o)).sum()
    after = [layer_norm(sum(r[i, j] * votes[i, j] for i in range(num_in)), weight, bias) for j in range(num_out)]
    return np.array(after), r


def moved(net):
    """The module in float64, its normalization and bias away from where they start."""
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    return net.double()


def routing(**options):
    return moved(InvertedDotProductRouting(CHILDREN, DIM, PARENTS, DIM, **options))


def children(*leading):
    return Capsules.from_vectors(torch.randn(*leading, CHILDREN, DIM, dtype=torch.float64))


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("vote_weights", [None, 2])
@pytest.mark.parametrize("iterations", [1, 2, 3])
@POSES
def test_equals_the_procedure_of_the_paper(pose, iterations, vote_weights, scaled):
    net = routing(pose=pose, iterations=iterations, vote_weights=vote_weights, scaled=scaled)
    capsules = children(2)
    weight, gain, bias = (p.detach().numpy() for p in (net.weight, net.norm.weight, net.norm.bias))
    score, shift = net.readout.score.weight.detach().numpy()[0], net.readout.score.bias.item()
    poses, couplings, activations = [], [], []
    for example in capsules.poses.numpy():
        votes, parents = votes_of(example, weight, pose == "matrix"), None
        for _ in range(iterations):
            parents, r = one_round(votes, parents, gain, bias, scaled)
        poses.append(parents)
        couplings.append(r)
        activations.append(1 / (1 + np.exp(-parents @ score - shift)))
    with torch.no_grad():
        result = net(capsules)
        np.testing.assert_allclose(result.poses, poses, atol=1e-9, rtol=0)
        np.testing.assert_allclose(result.activations, activations, atol=1e-9, rtol=0)
        np.testing.assert_allclose(net.couplings(capsules), couplings, atol=1e-9, rtol=0)


@POSES
def test_update_is_one_round_from_the_parents_it_is_given(pose):
    net, capsules = routing(pose=pose), children(1)
    parents = Capsules.from_vectors(torch.randn(1, PARENTS, DIM, dtype=torch.float64))
    weight, gain, bias = (p.detach().numpy() for p in (net.weight, net.norm.weight, net.norm.bias))
    votes = votes_of(capsules.poses[0].numpy(), weight, pose == "matrix")
    with torch.no_grad():
        for before in (None, parents):
            expected, _ = one_round(votes, None if before is None else before.poses[0].numpy(), gain, bias)
            np.testing.assert_allclose(net.update(capsules, before).poses[0], expected, atol=1e-9, rtol=0)
        assert_close(net.update(capsules, net.update(capsules)), net(capsules))


def test_gradients():
    votes, parents, gain, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 4, PARENTS, DIM), (2, PARENTS, DIM), DIM, DIM)
    )
    assert torch.autograd.gradcheck(partial(inverted_dot_product_routing, rounds=2), (votes, parents, gain, bias))
    assert torch.autograd.gradcheck(normalized_mean, (parents, gain, bias))


@pytest.mark.parametrize(
    ("shapes", "options", "matrix"),
    [
        ((16, 16), {}, True),
        ((16, 16), {"pose": "matrix"}, True),
        ((16, 16), {"pose": "vector"}, False),
        ((8, 16), {}, False),
        ((8, 8), {}, False),
    ],
)
def test_auto_takes_matrices_where_both_sides_are_the_same_square(shapes, options, matrix):
    net = InvertedDotProductRouting(6, shapes[0], 3, shapes[1], **options)
    assert net.weight.shape == ((6, 3, 4, 4) if matrix else (6, 3, shapes[1], shapes[0]))


@pytest.mark.parametrize(("pose", "fan"), [("matrix", 4), ("vector", 16)])
@pytest.mark.parametrize("vote_weights", [None, 32])
def test_weights_begin_as_in_the_released_code(pose, fan, vote_weights):
    weight = InvertedDotProductRouting(288, 16, 32, 16, pose=pose, vote_weights=vote_weights).weight
    assert_close(weight.std().item(), (32 / (fan * 288)) ** 0.5, rtol=0.02, atol=0)


def test_without_readout_every_activation_is_one():
    net = routing(readout=False)
    capsules = net(children(2))
    assert torch.equal(capsules.activations, torch.ones(2, PARENTS, dtype=torch.float64))
    assert {name.split(".")[0] for name, _ in net.named_parameters()} == {"weight", "norm"}


def test_compiles_without_a_graph_break():
    net = InvertedDotProductRouting(CHILDREN, DIM, PARENTS, DIM, iterations=3)
    capsules = Capsules.from_vectors(torch.randn(2, CHILDREN, DIM))
    assert_close(torch.compile(net, fullgraph=True, backend="eager")(capsules), net(capsules))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations=0: expected at least 1"),
        ({"pose": "tensor"}, "pose='tensor': expected one of auto, matrix, vector"),
        ({"pose": "matrix", "dim_out": 9}, "children of 4 and parents of 9"),
        ({"pose": "matrix", "dim_in": 8, "dim_out": 8}, "children of 8 and parents of 8"),
        ({"vote_weights": 4}, "vote_weights=4"),
        ({"backend": "triton"}, "backend='triton': expected one of auto, torch, blocked"),
        ({"backend": "blocked"}, "backend=blocked with matrix poses: .* use backend=auto or pose=vector"),
    ],
)
def test_refused(options, message):
    shapes = {"num_in": CHILDREN, "dim_in": DIM, "num_out": PARENTS, "dim_out": DIM}
    with pytest.raises(InputError, match=message):
        InvertedDotProductRouting(**shapes | options)


class Primary(MapEncoder):
    """Images that are themselves the poses, 2 types of 4 numbers."""

    def __init__(self, in_shape):
        super().__init__(in_shape, in_shape[1:], 2, DIM)

    def maps(self, images):
        return Capsules.from_vectors(images.unflatten(1, (2, DIM)).permute(0, 3, 4, 1, 2))


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_concurrent_rounds_equal_the_procedure_of_the_paper(iterations):
    size, types = 4, (3, 2)  # windows of 2x2: a map of 3x3 of 3 types, one of 2x2 of 2 types, and 5 classes
    net = moved(
        ConvCapsNet(
            (2 * DIM, size, size), 5, encoder=Primary, dim=DIM, types=types, kernel_sizes=(2, 2), strides=(1, 1),
            routing=partial(InvertedDotProductRouting, iterations=iterations), schedule="concurrent",
            share_class_votes=False, coordinates=False,
        )
    )  # fmt: skip
    images = torch.randn(1, 2 * DIM, size, size, dtype=torch.float64)

    def updated(layer, below, above):
        """All windows of a layer; ``below (rows, columns, A, D)``."""
        gain, bias = layer.norm.weight.detach().numpy(), layer.norm.bias.detach().numpy()
        kernel = 2 if layer.num_out != 5 else len(below)
        places = len(below) - kernel + 1
        after = np.zeros((places, places, layer.num_out, DIM))
        for y, x in np.ndindex(places, places):
            window = below[y : y + kernel, x : x + kernel].reshape(-1, DIM)
            votes = votes_of(window, layer.weight.detach().numpy(), matrix=True)
            after[y, x], _ = one_round(votes, None if above is None else above[y, x], gain, bias)
        return after

    layers = [layer.routing for layer in net.layers]
    values = [images[0].numpy().reshape(2, DIM, size, size).transpose(2, 3, 0, 1)]
    for layer in layers:
        values.append(updated(layer, values[-1], None))
    for _ in range(iterations - 1):
        values = [values[0]] + [updated(layers[n], values[n], values[n + 1]) for n in range(len(layers))]
    np.testing.assert_allclose(net(images).poses.detach()[0], values[-1][0, 0], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("classes", "options", "parameters"), [(10, {}, 1_828_817), (100, {"dim": 36, "hidden": (20,)}, 2_799_629)]
)
def test_parameters_of_the_papers_networks(classes, options, parameters):
    encoder = partial(
        ResNetEncoder, stem=64, planes=(64, 128), blocks=(3, 4), strides=(1, 2), dim=options.get("dim", 16),
        primary_kernel_size=1, pose_norm="layer", activation="one",
    )  # fmt: skip
    with torch.device("meta"):
        net = ConvCapsNet(
            (3, 32, 32), classes, encoder=encoder, routing=partial(InvertedDotProductRouting, readout=False),
            class_routing=InvertedDotProductRouting, schedule="concurrent", share_class_votes=False,
            coordinates=False, **options,
        )  # fmt: skip
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_convolutional_capsules_take_it():
    layer = ConvCapsules((6, 6), 2, 8, 3, 16, routing=InvertedDotProductRouting, stride=2)
    parents = layer(Capsules.from_vectors(torch.randn(2, 6, 6, 2, 8)))
    assert parents.poses.shape == (2, 2, 2, 3, 16)
    assert_close(parents.poses.mean(dim=-1), torch.zeros(2, 2, 2, 3), atol=1e-6, rtol=0)
