"""The laws of networks, each checked on every routing algorithm of the package in three networks."""

import itertools
from functools import partial

import pytest
import torch
from routings import ROUTINGS
from tiers import nightly_but
from torch import nn
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.matrix import MatrixEncoder
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.models.conv_capsnet import ConvCapsNet
from capsule_lightning.models.conv_capsules import ConvCapsules
from capsule_lightning.routing.base import MatrixRouting
from capsule_lightning.routing.dual import DualRouting
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.stabilized import StabilizedRouting

IN_SHAPE, CLASSES = (1, 12, 12), 3


class OneLayer(nn.Module):
    """Convolutional capsules on a map of primary capsules."""

    def __init__(self, routing):
        super().__init__()
        self.encoder = MatrixEncoder(IN_SHAPE, channels=4, num_types=2, dim=4)
        self.layer = ConvCapsules(self.encoder.size, 2, 4, CLASSES, 4, routing=routing, kernel_size=2, stride=1)

    def forward(self, images):
        parents = self.layer(self.encoder.maps(images))
        return Capsules(parents.poses.flatten(1, 3), parents.activations.flatten(1, 3))


def capsnet(routing):
    encoder = partial(SabourEncoder, channels=4, kernel_size=5, num_types=2, dim=4, primary_kernel_size=5)
    return CapsNet(IN_SHAPE, CLASSES, encoder=encoder, routing=routing, decoder=None, dim=6)


def two_layers(routing):
    encoder = partial(MatrixEncoder, channels=4, num_types=2, dim=4)
    windows = {"types": (3,), "kernel_sizes": (2,), "strides": (1,)}
    return ConvCapsNet(IN_SHAPE, CLASSES, encoder=encoder, routing=routing, **windows, dim=4)


@pytest.fixture(params=[capsnet, OneLayer, two_layers], ids=lambda build: build.__name__)
def build(request):
    """Makes the network for evaluation: statistics of a batch, where a routing keeps them, tie its examples."""
    return lambda routing: request.param(routing).eval()


@pytest.mark.parametrize("routing", ROUTINGS)
class TestNetworks:
    @pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
    def test_values_and_gradients_are_finite(self, build, routing, size):
        net, images = build(routing), (size * torch.rand(2, *IN_SHAPE)).requires_grad_()
        parents = net(images)
        (parents.poses.square().sum() + parents.activations.sum()).backward()
        assert parents.poses.isfinite().all()
        assert ((parents.activations >= 0) & (parents.activations <= 1 + 1e-6)).all()
        assert images.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
        assert size != 1 or images.grad.any()

    @pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
    def test_half_precision_gives_float32(self, build, routing, half):
        net, images = build(routing), torch.rand(2, *IN_SHAPE)
        with torch.autocast("cpu", dtype=half):
            parents = net(images)
        assert parents.poses.dtype == parents.activations.dtype == torch.float32
        # the convolutions carry eight bits (eleven in float16); a parent whose votes nearly cancel loses more of them
        for half_part, part in zip(parents, net(images), strict=True):
            assert (half_part - part).norm() < 0.05 * part.norm()

    def test_state_dict_round_trip(self, build, routing):
        net, other, images = build(routing), build(routing), torch.rand(2, *IN_SHAPE)
        assert not torch.equal(net(images).poses, other(images).poses)
        other.load_state_dict(net.state_dict())
        assert_close(other(images), net(images), rtol=0, atol=0)

    def test_examples_do_not_see_each_other(self, build, routing):
        net, images = build(routing).double(), torch.rand(4, *IN_SHAPE, dtype=torch.float64)
        together, alone = net(images), net(images[:1])
        assert_close(together.poses[:1], alone.poses)
        assert_close(together.activations[:1], alone.activations)


@pytest.mark.parametrize(
    ("make", "routing"),
    nightly_but(
        # that each algorithm compiles is tested in `test_contract`, here that what is around it does
        [(capsnet, DynamicRouting)],
        itertools.product([capsnet, OneLayer, two_layers], ROUTINGS),
    ),
)
def test_compiles(make, routing):
    net, images = make(routing).eval(), torch.rand(2, *IN_SHAPE)
    torch.compiler.reset()
    assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(images), net(images), rtol=1e-4, atol=1e-5)


# a child may serve several parents by the one, and none by the other
@pytest.mark.parametrize("routing", [each for each in ROUTINGS if each not in (DualRouting, StabilizedRouting)])
def test_couplings_in_windows_sum_to_one_over_the_parents_that_the_paper_means(routing):
    net = OneLayer(routing).eval()
    couplings = net.layer.couplings(net.encoder.maps(torch.rand(2, *IN_SHAPE)))  # (B, y, x, p * A, J)
    total = couplings.sum(dim=-1)
    if issubclass(routing, MatrixRouting):  # the parents of all windows that see the child
        total = net.layer.windows.add_up(total.reshape(*total.shape[:3], 4, 2))
    assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_order_of_the_types_in_windows_does_not_matter(routing):
    net, images = OneLayer(routing).eval().double(), torch.rand(2, *IN_SHAPE, dtype=torch.float64)
    maps, before = net.encoder.maps(images), net(images)
    reversed_types = Capsules(maps.poses.flip(3), maps.activations.flip(3))
    places = torch.arange(4 * 2).reshape(4, 2).flip(1).flatten()
    with torch.no_grad():
        for tensor in (*net.layer.routing.parameters(), *net.layer.routing.buffers()):
            for axis in (axis for axis, size in enumerate(tensor.shape) if size == 4 * 2):
                tensor.copy_(tensor.index_select(axis, places))
    after = net.layer(reversed_types)
    assert_close(after.poses.flatten(1, 3), before.poses)
    assert_close(after.activations.flatten(1, 3), before.activations)
