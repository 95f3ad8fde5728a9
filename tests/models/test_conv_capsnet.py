"""The network of convolutional capsules: parameters of the papers, shapes, the concurrent schedule, refused options."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.encoders.matrix import MatrixEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.conv_capsnet import ConvCapsNet
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.inverted_dot_product import InvertedDotProductRouting

SMALL = {"encoder": partial(MatrixEncoder, channels=64, num_types=8), "types": (16, 16)}


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("options", "parameters"), [({}, 317_194), (SMALL, 68_754)], ids=["paper", "small"])
def test_parameters_of_matrix_capsules(options, parameters):
    with torch.device("meta"):
        assert count(ConvCapsNet((2, 32, 32), 5, **options)) == parameters


def tiny(**options):
    encoder = partial(MatrixEncoder, channels=4, num_types=2, dim=4)
    defaults = {"types": (3, 2), "kernel_sizes": (3, 2), "strides": (1, 1), "dim": 4}
    return ConvCapsNet((1, 14, 14), 5, encoder=encoder, **{**defaults, **options})


@pytest.mark.parametrize("hidden", [(), (7,)])
def test_shapes_from_image_to_picture(hidden):
    net = tiny(hidden=hidden, decoder=partial(DenseDecoder, hidden=(8,)))
    capsules = net(torch.rand(2, 1, 14, 14))
    assert capsules.poses.shape == (2, 5, 4)
    assert capsules.activations.shape == (2, 5)
    assert net.reconstruct(capsules, torch.tensor([0, 4])).shape == (2, 1, 14, 14)


def test_without_convolutions_the_class_capsules_see_the_primary_ones():
    net = tiny(types=(), kernel_sizes=(), strides=())
    assert len(net.layers) == 1
    assert net.layers[0].routing.num_in == 5 * 5 * 2
    assert net(torch.rand(2, 1, 14, 14)).poses.shape == (2, 5, 4)


def test_class_capsules_may_route_another_way():
    net = tiny(routing=DynamicRouting, class_routing=InvertedDotProductRouting, coordinates=False)
    assert [type(layer.routing) for layer in net.layers] == [DynamicRouting] * 2 + [InvertedDotProductRouting]


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_concurrent_rounds_update_all_layers_from_the_round_before(iterations):
    routing = partial(InvertedDotProductRouting, iterations=iterations)
    net = tiny(routing=routing, coordinates=False, schedule="concurrent").double()
    images = torch.rand(2, 1, 14, 14, dtype=torch.float64)
    layers = list(net.layers)
    below = [net.encoder.maps(images)]
    for layer in layers:  # the first pass, from uniform couplings
        children = layer.window_children(below[-1])
        uniform = torch.full(layer.routing.couplings(children).shape, 1 / layer.routing.num_out, dtype=torch.float64)
        below.append(layer.routing.update(children))
        votes = torch.einsum(
            "byxinm,ijmk->byxijnk", children.poses.unflatten(-1, (2, 2)),
            layer.routing.weight.repeat(layer.routing.num_in // layer.routing.vote_weights, 1, 1, 1),
        ).flatten(-2)  # fmt: skip
        expected = layer.routing.norm(torch.einsum("byxij,byxije->byxje", uniform, votes))
        assert_close(below[-1].poses, expected)
    for _ in range(iterations - 1):
        after = [below[0]]
        for n, layer in enumerate(layers):
            after.append(layer.routing.update(layer.window_children(below[n]), below[n + 1]))
        below = after
    assert_close(net(images).poses, below[-1].poses.flatten(1, 3))
    sequential = tiny(routing=routing, coordinates=False).double()
    sequential.load_state_dict(net.state_dict())
    assert torch.allclose(sequential(images).poses, net(images).poses) == (iterations == 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": (1,)}, r"strides=\[1\], paddings=\[0, 0\]: expected one of each"),
        ({"schedule": "parallel"}, "schedule='parallel': expected one of sequential, concurrent"),
        ({"schedule": "concurrent"}, "schedule=concurrent with EMRouting: .* use schedule=sequential"),
        (
            {
                "schedule": "concurrent",
                "routing": InvertedDotProductRouting,
                "class_routing": partial(InvertedDotProductRouting, iterations=3),
            },
            "layers of 2 and 3 iterations: expected the same number in all",
        ),
        ({"kernel_sizes": (9, 9)}, "map of 5x5"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        tiny(**options)
