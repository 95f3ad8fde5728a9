"""Who votes for whom: entropy and agreement against loops, places against what a pixel reaches, iterations."""

from functools import partial
from math import log

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.analysis.class_routing import (
    agreement,
    child_map,
    class_routing,
    coupling_entropy,
    couplings_by_iteration,
    vote_agreement,
    vote_maps,
)
from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import CapsuleMap
from capsule_lightning.encoders.efficient import EfficientEncoder
from capsule_lightning.encoders.matrix import MatrixEncoder
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.layers.votes import vote
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.models.cnn import BaselineCNN
from capsule_lightning.models.conv_capsnet import ConvCapsNet
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.em import EMRouting
from capsule_lightning.routing.heinsen_vector import HeinsenVectorRouting
from capsule_lightning.routing.uniform import UniformRouting

sabour = partial(SabourEncoder, channels=4, kernel_size=3, num_types=2, dim=4, primary_kernel_size=3)
tiny = partial(CapsNet, encoder=sabour, decoder=None, dim=5)
convolutional = partial(
    ConvCapsNet, encoder=partial(MatrixEncoder, channels=4, num_types=2), types=(3,), kernel_sizes=(3,), strides=(1,)
)


def test_entropy_is_that_of_a_loop():
    couplings, activations = torch.rand(2, 6, 4, dtype=torch.float64), torch.rand(2, 6, dtype=torch.float64)
    for b in range(2):
        total = 0.0
        for i in range(6):
            shares = [float(c / couplings[b, i].sum()) for c in couplings[b, i]]
            total += float(activations[b, i]) * -sum(p * log(p) for p in shares) / log(4)
        expected = total / float(activations[b].sum())
        assert float(coupling_entropy(couplings, activations)[b]) == pytest.approx(expected, abs=1e-9)


def test_entropy_is_one_where_nothing_is_chosen_and_zero_where_all_is():
    activations = torch.ones(3)
    assert float(coupling_entropy(torch.full((3, 5), 0.1), activations)) == pytest.approx(1)
    assert float(coupling_entropy(torch.eye(5)[:3], activations)) == 0
    assert not coupling_entropy(torch.zeros(3, 5), torch.zeros(3)).isnan()


def test_agreement_is_the_weighted_cosine_of_a_loop():
    votes, parents = torch.randn(2, 6, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    weights = torch.rand(2, 6, dtype=torch.float64)
    for b in range(2):
        total = 0.0
        for i in range(6):
            u, v = votes[b, i].numpy(), parents[b].numpy()
            total += float(weights[b, i]) * float(u @ v / np.sqrt(u @ u) / np.sqrt(v @ v))
        expected = total / float(weights[b].sum())
        assert float(vote_agreement(votes, parents, weights)[b]) == pytest.approx(expected, abs=1e-9)


def test_agreement_of_a_network_is_about_its_longest_capsule():
    net, images = tiny((1, 8, 8), 3).double(), torch.rand(4, 1, 8, 8, dtype=torch.float64)
    seen = class_routing(net, images)
    couplings, votes = net.routing.couplings(seen.children), vote(seen.children.poses, net.routing.weight)
    for b in range(4):
        j = int(seen.parents.activations[b].argmax())
        weights = couplings[b, :, j] * seen.children.activations[b]
        expected = vote_agreement(votes[b, :, j], seen.parents.poses[b, j], weights)
        assert_close(agreement(seen)[b], expected.detach())


def test_children_and_parents_are_what_the_routing_got_and_gave():
    net, images = tiny((1, 8, 8), 3).eval(), torch.rand(2, 1, 8, 8)
    seen = class_routing(net, images)
    with torch.no_grad():
        assert_close(seen.children, net.encoder(images))
        assert_close(seen.parents, net(images))
    assert not net.routing._forward_hooks  # nothing is left behind


def test_networks_without_routing_and_votes_that_are_no_products():
    assert class_routing(BaselineCNN((1, 8, 8), 3, channels=(2,), hidden=(4,)), torch.rand(2, 1, 8, 8)) is None
    net = tiny((1, 8, 8), 3, routing=HeinsenVectorRouting)
    assert agreement(class_routing(net, torch.rand(2, 1, 8, 8))) is None


def test_couplings_of_each_iteration_and_the_routing_as_it_was():
    net, images = tiny((1, 8, 8), 3, routing=partial(DynamicRouting, iterations=3)), torch.rand(2, 1, 8, 8)
    seen = class_routing(net, images)
    couplings = couplings_by_iteration(seen)
    assert couplings.shape == (3, 2, net.encoder.num_capsules, 3)
    assert_close(couplings[0], torch.full_like(couplings[0], 1 / 3))
    assert_close(couplings[2], net.routing.couplings(seen.children).detach())
    assert (couplings[1] - couplings[2]).abs().max() > 0
    assert net.routing.iterations == 3
    uniform = class_routing(tiny((1, 8, 8), 3, routing=UniformRouting), images)
    assert couplings_by_iteration(uniform).shape == (1, 2, net.encoder.num_capsules, 3)


def test_a_convolutional_network_of_matrix_capsules_is_seen_too():
    net = convolutional((1, 16, 16), 3, routing=EMRouting)
    seen = class_routing(net, torch.rand(2, 1, 16, 16))
    places, couplings = child_map(net), couplings_by_iteration(seen)
    assert couplings.shape == (3, 2, places.types * places.rows * places.columns, 3)
    assert places.types == 3
    assert agreement(seen).shape == (2,)
    children = seen.children.activations.reshape(couplings.shape[1:-1])
    assert vote_maps(couplings[-1], children, places).shape == (2, 3, places.rows, places.columns)


@pytest.mark.parametrize("by_type", [True, False])
def test_votes_of_a_place_are_summed_over_its_types_and_measured_from_the_average(by_type):
    places = CapsuleMap(types=2, rows=3, columns=4, by_type=by_type, extent=None)
    couplings, activations = torch.rand(5, 24, 3, dtype=torch.float64), torch.rand(5, 24, dtype=torch.float64)
    expected = np.zeros((5, 3, 3, 4))
    for b in range(5):
        for i in range(24):
            index = np.unravel_index(i, (2, 3, 4) if by_type else (3, 4, 2))
            r, c = index[1:] if by_type else index[:2]
            for j in range(3):
                above = float(couplings[b, i, j]) - float(couplings[b, i].mean())
                expected[b, j, r, c] += above * float(activations[b, i])
    np.testing.assert_allclose(vote_maps(couplings, activations, places), expected, atol=1e-12)


@pytest.mark.parametrize(
    "encoder",
    [
        pytest.param(sabour, id="valid"),
        pytest.param(partial(sabour, padding="same"), id="same"),
        pytest.param(partial(sabour, kernel_size=5, stride=2, padding="same"), id="same, two strides"),
        pytest.param(
            partial(
                EfficientEncoder,
                channels=(4, 8),
                kernel_sizes=(3, 3),
                strides=(1, 2),
                dim=4,
                primary_kernel_size=2,
                primary_stride=2,
            ),
            id="efficient",
        ),
    ],
)
def test_a_child_lies_in_the_middle_of_the_pixels_that_reach_it(encoder):
    net = tiny((1, 21, 16), 3, encoder=encoder).double().eval()
    places = child_map(net)
    assert places.types * places.rows * places.columns == net.encoder.num_capsules
    left, right, bottom, top = places.extent
    images = torch.rand(1, 1, 21, 16, dtype=torch.float64, requires_grad=True)
    poses = net.encoder(images).poses.reshape(places.types, places.rows, places.columns, -1)
    row, column = places.rows // 2, places.columns // 2
    (gradient,) = torch.autograd.grad(poses[:, row, column].square().sum(), images)
    ys, xs = gradient[0, 0].nonzero(as_tuple=True)
    middle = (float(ys.min() + ys.max() + 1) / 2, float(xs.min() + xs.max() + 1) / 2)
    assert top + (bottom - top) * (row + 0.5) / places.rows == pytest.approx(middle[0])
    assert left + (right - left) * (column + 0.5) / places.columns == pytest.approx(middle[1])


def test_one_place_is_no_map():
    whole = partial(EfficientEncoder, channels=(4, 8), kernel_sizes=(3, 3), strides=(1, 1), dim=4)
    assert child_map(tiny((1, 8, 8), 3, encoder=whole)) is None
    assert child_map(BaselineCNN((1, 8, 8), 3, channels=(2,), hidden=(4,))) is None


def test_capsules_may_be_of_any_leading_shape():
    net = convolutional((1, 16, 16), 3, routing=EMRouting)
    seen = class_routing(net, torch.rand(2, 1, 16, 16))
    assert isinstance(seen.children, Capsules)
    assert seen.children.poses.shape[:3] == (2, 1, 1)
    entropy = coupling_entropy(seen.routing.couplings(seen.children), seen.children.activations)
    assert entropy.flatten().shape == (2,)
    assert ((entropy >= 0) & (entropy <= 1)).all()
