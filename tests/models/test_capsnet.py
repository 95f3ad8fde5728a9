"""The capsule network: the sizes of the published ones, any images and classes, and what it refuses."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.decoders.conv import ConvDecoder
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.uniform import UniformRouting

tiny = partial(
    CapsNet,
    encoder=partial(SabourEncoder, channels=4, kernel_size=3, num_types=2, dim=4, primary_kernel_size=3),
    decoder=partial(DenseDecoder, hidden=(8,)),
    dim=5,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("in_shape", "options", "count"),
    [
        pytest.param((1, 28, 28), {"decoder": None}, 6_804_224, id="mnist-without-decoder"),
        pytest.param((1, 28, 28), {}, 8_215_568, id="mnist"),
        pytest.param((1, 28, 28), {"routing": UniformRouting}, 8_215_568, id="mnist-uniform"),
        pytest.param((1, 28, 28), {"routing": partial(DynamicRouting, bias=True)}, 8_215_728, id="mnist-official"),
        pytest.param((1, 36, 36), {}, 11_361_808, id="multimnist"),
        pytest.param((1, 40, 40), {}, 13_475_648, id="affnist"),
        pytest.param(
            (3, 24, 24),
            {"encoder": partial(SabourEncoder, num_types=64, padding="same"), "decoder": None},
            22_476_288,
            id="cifar10",
        ),
        pytest.param(
            (3, 32, 32),
            {"encoder": partial(SabourEncoder, channels=64, num_types=16, dim=6), "decoder": None, "dim": 8},
            1_004_896,
            id="svhn",
        ),
    ],
)
def test_number_of_parameters_of_the_published_networks(in_shape, options, count):
    with torch.device("meta"):
        net = CapsNet(in_shape, 10, **options)
    assert sum(parameter.numel() for parameter in net.parameters()) == count


@pytest.mark.parametrize("decoder", [partial(DenseDecoder, hidden=(8,)), partial(ConvDecoder, channels=(4,))])
@pytest.mark.parametrize(("in_shape", "num_classes"), [((1, 12, 12), 2), ((3, 9, 13), 10), ((2, 10, 7), 3)])
def test_any_image_size_channels_and_classes(in_shape, num_classes, decoder):
    net = tiny(in_shape, num_classes, decoder=decoder)
    images = torch.rand(2, *in_shape)
    capsules = net(images)
    assert capsules.poses.shape == (2, num_classes, 5)
    assert capsules.activations.shape == (2, num_classes)
    assert_close(capsules.activations, capsules.poses.norm(dim=-1))
    assert net.reconstruct(capsules, capsules.activations.argmax(dim=-1)).shape == images.shape


def test_is_the_encoder_then_the_routing_then_the_decoder():
    net, images, labels = tiny((1, 8, 8), 3), torch.rand(2, 1, 8, 8), torch.tensor([2, 0])
    capsules = net(images)
    assert_close(capsules, net.routing(net.encoder(images)))
    assert_close(net.reconstruct(capsules, labels), net.decoder(capsules.poses, labels))


def test_without_decoder_nothing_is_reconstructed():
    net = tiny((1, 8, 8), 3, decoder=None)
    assert net.reconstruct(net(torch.rand(2, 1, 8, 8)), torch.tensor([2, 0])) is None


def test_examples_do_not_see_each_other():
    net, images = tiny((1, 8, 8), 3).double(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    together, alone = net(images), net(images[1:2])
    assert_close(Capsules(together.poses[1:2], together.activations[1:2]), alone)


def test_gradient_reaches_every_parameter():
    net = tiny((1, 8, 8), 3)
    capsules = net(torch.rand(2, 1, 8, 8))
    net.reconstruct(capsules, torch.tensor([2, 0])).square().sum().backward()
    assert all(parameter.grad.any() for parameter in net.parameters())


def test_capsules_and_pictures_are_float32_under_autocast():
    net, images = tiny((1, 8, 8), 3), torch.rand(2, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        capsules = net(images)
        pictures = net.reconstruct(capsules, torch.tensor([2, 0]))
    assert capsules.poses.dtype == capsules.activations.dtype == pictures.dtype == torch.float32
    assert_close(capsules, net(images), rtol=0, atol=0.01)  # convolutions and votes have the eight bits of bfloat16


@pytest.mark.parametrize("shape", [(2, 1, 9, 8), (2, 1, 8, 9), (2, 3, 8, 8), (1, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(InputError) as error:
        tiny((1, 8, 8), 3)(torch.rand(shape))
    assert str(shape) in str(error.value)
    assert "(batch, 1, 8, 8)" in str(error.value)


@pytest.mark.parametrize("in_shape", [(28, 28), (0, 28, 28), (1, 28, 0), (2, 1, 28, 28)])
def test_impossible_image_shapes_are_refused(in_shape):
    with pytest.raises(InputError, match=r"in_shape=.* expected"):
        tiny(in_shape, 10)


@pytest.mark.parametrize("num_classes", [0, 1])
def test_fewer_than_two_classes_are_refused(num_classes):
    with pytest.raises(InputError, match=f"num_classes={num_classes}: expected at least 2"):
        tiny((1, 28, 28), num_classes)
