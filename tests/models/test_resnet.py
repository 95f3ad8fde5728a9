"""The residual network: its size, what it computes, any images and classes, and that its capsules are logits."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.encoders.resnet import ResNetEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.resnet import ResNet

tiny = partial(ResNet, stem=4, planes=(4, 6), blocks=(1, 1), strides=(1, 2))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("options", "convolutions", "count"),
    [
        pytest.param({}, 19, 272_474, id="resnet-20"),
        pytest.param({"blocks": (5, 5, 5)}, 31, 466_906, id="resnet-32"),
    ],
)
def test_number_of_parameters_and_layers(options, convolutions, count):
    with torch.device("meta"):
        net = ResNet((3, 32, 32), 10, **options)
    assert sum(parameter.numel() for parameter in net.parameters()) == count
    # shortcuts of 1x1 aside, and with the linear layer the number in the name
    assert sum(parameter.ndim == 4 and parameter.shape[-1] == 3 for parameter in net.parameters()) == convolutions


def test_has_the_trunk_of_the_encoder():
    with torch.device("meta"):
        net, encoder = ResNet((3, 32, 32), 10), ResNetEncoder((3, 32, 32))
    shapes = ({name: value.shape for name, value in part.trunk.state_dict().items()} for part in (net, encoder))
    assert next(shapes) == next(shapes)


def test_logits_are_linear_in_the_means_of_the_maps():
    net, images = tiny((2, 8, 6), 3).double().eval(), torch.rand(2, 2, 8, 6, dtype=torch.float64)
    maps = net.trunk(images)
    assert maps.shape == (2, 6, 4, 3)
    means = torch.stack([torch.stack([m.sum() / 12 for m in image]) for image in maps])
    assert_close(net(images).poses.squeeze(-1), means @ net.head.weight.T + net.head.bias)


@pytest.mark.parametrize(("in_shape", "num_classes"), [((1, 12, 12), 2), ((3, 9, 13), 10), ((2, 2, 1), 3)])
def test_any_image_size_channels_and_classes(in_shape, num_classes):
    capsules = tiny(in_shape, num_classes)(torch.rand(2, *in_shape))
    assert capsules.poses.shape == (2, num_classes, 1)
    assert capsules.activations.shape == (2, num_classes)


def test_activations_are_the_softmax_of_the_poses():
    poses, activations = tiny((1, 8, 8), 3)(torch.rand(2, 1, 8, 8))
    odds = torch.exp(poses.squeeze(-1))
    assert_close(activations, odds / odds.sum(dim=1, keepdim=True))


def test_examples_do_not_see_each_other_in_evaluation():
    net, images = tiny((1, 8, 8), 3).double().eval(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    assert_close(net(images).poses[1:2], net(images[1:2]).poses)


def test_there_is_nothing_to_reconstruct():
    net = tiny((1, 8, 8), 3)
    assert net.reconstruct(net(torch.rand(2, 1, 8, 8)), torch.tensor([2, 0])) is None


def test_gradient_reaches_every_parameter():
    net = tiny((1, 8, 8), 3)
    net(torch.rand(8, 1, 8, 8)).poses.square().sum().backward()
    assert all(parameter.grad.any() for parameter in net.parameters())


def test_logits_are_float32_under_autocast():
    net, images = tiny((1, 8, 8), 3).eval(), torch.rand(2, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        capsules = net(images)
    assert capsules.poses.dtype == capsules.activations.dtype == torch.float32
    assert_close(capsules, net(images), rtol=0, atol=0.05)  # the layers have the eight bits of bfloat16


@pytest.mark.parametrize("options", [{"planes": (4,)}, {"strides": (1, 0)}, {"stem": 0}])
def test_sizes_that_do_not_fit_are_refused(options):
    with pytest.raises(InputError, match=r"(planes|stem)=.* expected"):
        tiny((1, 8, 8), 3, **options)


@pytest.mark.parametrize("shape", [(2, 1, 9, 8), (2, 3, 8, 8), (1, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(InputError) as error:
        tiny((1, 8, 8), 3)(torch.rand(shape))
    assert str(shape) in str(error.value)
    assert "(batch, 1, 8, 8)" in str(error.value)
