"""The convolutional baselines: their sizes and layers, any images and classes, and that their capsules are logits."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.errors import InputError
from capsule_lightning.models.cnn import BaselineCNN

tiny = partial(BaselineCNN, channels=(4, 3), hidden=(8,), kernel_size=3)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("in_shape", "num_classes", "options", "count"),
    [
        pytest.param((1, 28, 28), 10, {}, 35_445_522, id="mnist"),
        pytest.param(
            (1, 36, 36),
            10,
            {"channels": (512, 256), "kernel_size": (9, 5), "pool": True, "hidden": (1024,)},
            24_563_978,
            id="multimnist",
        ),
        pytest.param(
            (1, 36, 36),
            10,
            {"channels": (512, 256), "kernel_size": 5, "pool": True, "hidden": (1024,)},
            24_535_306,
            id="multimnist-released-code",
        ),
        pytest.param(
            (2, 32, 32), 5, {"channels": (32, 64), "pool": True, "hidden": (1024,)}, 4_253_349, id="smallnorb"
        ),
    ],
)
def test_number_of_parameters_of_the_published_baselines(in_shape, num_classes, options, count):
    with torch.device("meta"):
        net = BaselineCNN(in_shape, num_classes, **options)
    assert sum(parameter.numel() for parameter in net.parameters()) == count


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(("in_shape", "num_classes"), [((1, 12, 12), 2), ((3, 9, 13), 10), ((2, 2, 1), 3)])
def test_any_image_size_channels_and_classes(in_shape, num_classes, pool):
    capsules = tiny(in_shape, num_classes, pool=pool)(torch.rand(2, *in_shape))
    assert capsules.poses.shape == (2, num_classes, 1)
    assert capsules.activations.shape == (2, num_classes)


def test_is_convolutions_then_dense_layers():
    net, images = tiny((2, 8, 6), 3).eval(), torch.rand(2, 2, 8, 6)
    one, two = (layer for layer in net.layers if isinstance(layer, nn.Conv2d))
    hidden, last = (layer for layer in net.layers if isinstance(layer, nn.Linear))
    maps = F.conv2d(F.conv2d(images, one.weight, one.bias, padding=1).relu(), two.weight, two.bias, padding=1).relu()
    assert_close(net(images).poses.squeeze(-1), last(hidden(maps.flatten(1)).relu()))


def test_a_convolution_has_the_kernel_of_its_place_and_is_followed_by_the_largest_of_four_pixels():
    net, images = tiny((2, 8, 6), 3, pool=True, kernel_size=(5, 3)).eval(), torch.rand(2, 2, 8, 6)
    one, two = (layer for layer in net.layers if isinstance(layer, nn.Conv2d))
    hidden, last = (layer for layer in net.layers if isinstance(layer, nn.Linear))
    maps = F.conv2d(images, one.weight, one.bias, padding=2).relu()
    maps = maps.unflatten(3, (3, 2)).unflatten(2, (4, 2)).amax(dim=(3, 5))
    maps = F.conv2d(maps, two.weight, two.bias, padding=1).relu()
    maps = F.pad(maps, (0, 1)).unflatten(3, (2, 2)).unflatten(2, (2, 2)).amax(dim=(3, 5))  # a column was left over
    assert_close(net(images).poses.squeeze(-1), last(hidden(maps.flatten(1)).relu()))


def test_activations_are_the_softmax_of_the_poses():
    poses, activations = tiny((1, 8, 8), 3)(torch.rand(2, 1, 8, 8))
    odds = torch.exp(poses.squeeze(-1))
    assert_close(activations, odds / odds.sum(dim=1, keepdim=True))


def test_examples_do_not_see_each_other():
    net, images = tiny((1, 8, 8), 3).double().eval(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    assert_close(net(images).poses[1:2], net(images[1:2]).poses)


def test_dropout_is_on_in_training_and_off_after():
    net, images = tiny((1, 8, 8), 3, hidden=(64,)), torch.rand(2, 1, 8, 8)
    assert not torch.equal(net(images).poses, net(images).poses)
    net.eval()
    assert torch.equal(net(images).poses, net(images).poses)


def test_there_is_nothing_to_reconstruct():
    net = tiny((1, 8, 8), 3)
    assert net.reconstruct(net(torch.rand(2, 1, 8, 8)), torch.tensor([2, 0])) is None


def test_gradient_reaches_every_parameter():
    net = tiny((1, 8, 8), 3, dropout=0.0)
    net(torch.rand(8, 1, 8, 8)).poses.square().sum().backward()
    assert all(parameter.grad.any() for parameter in net.parameters())


def test_logits_are_float32_under_autocast():
    net, images = tiny((1, 8, 8), 3).eval(), torch.rand(2, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        capsules = net(images)
    assert capsules.poses.dtype == capsules.activations.dtype == torch.float32
    assert_close(capsules, net(images), rtol=0, atol=0.01)  # the layers have the eight bits of bfloat16


@pytest.mark.parametrize("shape", [(2, 1, 9, 8), (2, 3, 8, 8), (1, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(InputError) as error:
        tiny((1, 8, 8), 3)(torch.rand(shape))
    assert str(shape) in str(error.value)
    assert "(batch, 1, 8, 8)" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": (3, 3, 3)}, r"kernel_size=\[3, 3, 3\].* each of the 2 convolutions"),
        ({"kernel_size": 0}, r"kernel_size=\[0, 0\]: expected at least 1"),
        ({"channels": (4, 0)}, r"channels=\[4, 0\].*: expected at least 1"),
        ({"hidden": (0,)}, r"hidden=\[0\].*: expected at least 1"),
        ({"dropout": 1.5}, r"dropout=1\.5: expected a fraction"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        tiny((1, 8, 8), 3, **options)
