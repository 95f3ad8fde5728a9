"""The convolutional baseline: its size, any images and classes, and that its capsules are logits."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.errors import InputError
from capsule_lightning.models.cnn import BaselineCNN

tiny = partial(BaselineCNN, channels=(4, 3), hidden=(8,), kernel_size=3)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_has_the_number_of_parameters_of_the_paper():
    with torch.device("meta"):
        net = BaselineCNN((1, 28, 28), 10)
    assert sum(parameter.numel() for parameter in net.parameters()) == 35_445_522


@pytest.mark.parametrize(("in_shape", "num_classes"), [((1, 12, 12), 2), ((3, 9, 13), 10), ((2, 2, 1), 3)])
def test_any_image_size_channels_and_classes(in_shape, num_classes):
    capsules = tiny(in_shape, num_classes)(torch.rand(2, *in_shape))
    assert capsules.poses.shape == (2, num_classes, 1)
    assert capsules.activations.shape == (2, num_classes)


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
