"""Residual trunk and encoder: plain loops, sizes of the published networks, layout of the capsules, refused sizes."""

from math import ceil

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.resnet import ResidualTrunk, ResNetEncoder
from capsule_lightning.errors import InputError

TINY = {"stem": 2, "planes": (2, 3), "blocks": (1, 2), "strides": (1, 2), "num_types": 3, "dim": 4}
INVERTED_ATTENTION = {
    "stem": 64,
    "planes": (64, 128),
    "blocks": (3, 4),
    "strides": (1, 2),
    "primary_kernel_size": 1,
    "pose_norm": "layer",
    "activation": "one",
}
VARIANTS = pytest.mark.parametrize("pose_norm", ["batch", "layer"])


def convolve(maps, layer):
    """Convolve ``maps (C, H, W)`` without bias, one output at a time, zeros around."""
    weight, stride = layer.weight.detach().numpy(), layer.stride[0]
    kernel = weight.shape[-1]
    rows, columns = (ceil(n / stride) for n in maps.shape[1:])
    around = kernel // 2
    maps = np.pad(maps, [(0, 0), (around, around), (around, around)])
    out = np.empty((len(weight), rows, columns))
    for o, r, c in np.ndindex(out.shape):
        top, left = r * stride, c * stride
        out[o, r, c] = (maps[:, top : top + kernel, left : left + kernel] * weight[o]).sum()
    return out


def normalize(maps, layer):
    """Batch normalization with the statistics of training, one channel at a time."""
    scale, shift, mean, var = (
        t.detach().numpy() for t in (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    )
    channels = ((m - mean[k]) / np.sqrt(var[k] + layer.eps) * scale[k] + shift[k] for k, m in enumerate(maps))
    return np.stack(list(channels))


def through_trunk(image, trunk):
    """Maps of one image, from the definition: ``relu(x + f(x))``."""
    conv, norm, _, *blocks = trunk.layers
    maps = np.maximum(normalize(convolve(image, conv), norm), 0)
    for block in blocks:
        conv1, norm1, _, conv2, norm2 = block.layers
        inner = np.maximum(normalize(convolve(maps, conv1), norm1), 0)
        inner = normalize(convolve(inner, conv2), norm2)
        if not isinstance(block.shortcut, nn.Identity):
            maps = normalize(convolve(maps, block.shortcut[0]), block.shortcut[1])
        maps = np.maximum(maps + inner, 0)
    return maps


def evaluated(module):
    """In float64, with statistics as if it had been trained."""
    for layer in module.double().modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            for tensor in (layer.weight, layer.bias, *layer.buffers()):
                if tensor.is_floating_point():
                    nn.init.uniform_(tensor, 0.5, 1.5)
    return module.eval()


def count(module):
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def block(width, out):
    """Parameters of a residual block: two convolutions, two normalizations, and a shortcut where the width changes."""
    return 9 * width * out + 9 * out * out + 4 * out + (width != out) * (width * out + 2 * out)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("in_shape", [(3, 6, 6), (1, 5, 8)])
def test_trunk_equals_plain_loops(in_shape):
    trunk = evaluated(ResidualTrunk(in_shape[0], 2, (2, 3), (1, 2), (1, 2)))
    images = torch.rand(2, *in_shape, dtype=torch.float64)
    with torch.no_grad():
        maps = trunk(images)
    for image, found in zip(images.numpy(), maps.numpy(), strict=True):
        np.testing.assert_allclose(found, through_trunk(image, trunk), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kernel", [1, 3])
@VARIANTS
def test_capsules_equal_plain_loops(pose_norm, kernel):
    encoder = evaluated(ResNetEncoder((2, 5, 6), pose_norm=pose_norm, primary_kernel_size=kernel, **TINY))
    images = torch.rand(2, 2, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        poses, activations = encoder.maps(images)
    for image, pose, activation in zip(images.numpy(), poses.numpy(), activations.numpy(), strict=True):
        features = through_trunk(image, encoder.trunk)
        maps = convolve(features, encoder.poses)
        maps = normalize(maps, encoder.map_norm) if pose_norm == "batch" else maps
        scores = normalize(convolve(features, encoder.scores), encoder.score_norm)
        for row, column, kind in np.ndindex(3, 3, 3):
            expected = maps[4 * kind : 4 * kind + 4, row, column]
            if pose_norm == "layer":
                scale, shift = (t.detach().numpy() for t in encoder.capsule_norm.parameters())
                expected = scale * (expected - expected.mean()) / np.sqrt(expected.var() + 1e-5) + shift
            np.testing.assert_allclose(pose[row, column, kind], expected, rtol=0, atol=1e-9)
            sigmoid = 1 / (1 + np.exp(-scores[kind, row, column]))
            np.testing.assert_allclose(activation[row, column, kind], sigmoid, rtol=0, atol=1e-9)


def test_number_of_parameters_of_the_trunk_of_resnet_20():
    stages = 3 * block(16, 16) + block(16, 32) + 2 * block(32, 32) + block(32, 64) + 2 * block(64, 64)
    expected = 27 * 16 + 2 * 16 + stages
    assert expected == 272_474 - (64 * 10 + 10)
    with torch.device("meta"):
        trunk = ResidualTrunk(3, 16, (16, 32, 64), (3, 3, 3), (1, 2, 2))
        encoder = ResNetEncoder((3, 32, 32))
    assert count(trunk) == expected
    poses, scores = 9 * 64 * 512 + 2 * 512, 9 * 64 * 32 + 2 * 32
    assert count(encoder) == expected + poses + scores
    assert (encoder.size, encoder.num_types, encoder.dim, encoder.num_capsules) == ((8, 8), 32, 16, 8 * 8 * 32)


def test_number_of_parameters_of_the_network_of_inverted_attention():
    with torch.device("meta"):
        encoder = ResNetEncoder((3, 32, 32), **INVERTED_ATTENTION)
    trunk = 27 * 64 + 2 * 64 + 3 * block(64, 64) + block(64, 128) + 3 * block(128, 128)
    primary = 128 * 512 + 2 * 16
    assert count(encoder.trunk) == trunk
    assert count(encoder) == trunk + primary
    assert (encoder.size, encoder.num_capsules) == ((16, 16), 16 * 16 * 32)
    convolutional = 2 * (9 * 32 * 32 * 16 + 2 * 16)  # two layers of 32 types, 3x3 places, matrices of 4x4
    classes, readout = 5 * 5 * 32 * 10 * 16 + 2 * 16, 16 + 1
    assert trunk + primary + convolutional + classes + readout == 1_828_817  # of the released network


@pytest.mark.parametrize("in_shape", [(3, 8, 8), (1, 7, 9), (2, 1, 1)])
@VARIANTS
@pytest.mark.parametrize("activation", ["sigmoid", "one"])
def test_any_image_size_gives_the_capsules_that_were_promised(in_shape, pose_norm, activation):
    encoder = ResNetEncoder(in_shape, pose_norm=pose_norm, activation=activation, **TINY)
    images = torch.rand(2, *in_shape)
    poses, activations = encoder.maps(images)
    assert poses.shape == (2, *encoder.size, 3, 4)
    assert activations.shape == (2, *encoder.size, 3)
    poses, activations = encoder(images)
    assert poses.shape == (2, encoder.num_capsules, 4)
    assert activations.shape == (2, encoder.num_capsules)
    assert ((activations > 0) & (activations <= 1)).all()


def test_capsules_are_ordered_by_row_column_type():
    encoder = ResNetEncoder((1, 5, 7), **TINY).eval()
    images = torch.rand(2, 1, 5, 7)
    maps, capsules = encoder.maps(images), encoder(images)
    rows, columns = encoder.size
    for number, (row, column, kind) in enumerate(np.ndindex(rows, columns, 3)):
        assert_close(capsules.poses[:, number], maps.poses[:, row, column, kind])
        assert_close(capsules.activations[:, number], maps.activations[:, row, column, kind])


def test_every_capsule_may_be_fully_active():
    encoder = ResNetEncoder((1, 8, 8), activation="one", **TINY)
    assert encoder(torch.rand(2, 1, 8, 8)).activations.eq(1).all()
    assert count(ResNetEncoder((1, 8, 8), **TINY)) - count(encoder) == 9 * 3 * 3 + 2 * 3  # of the scores


def test_examples_do_not_see_each_other_in_evaluation():
    encoder, images = ResNetEncoder((1, 8, 8), **TINY).double().eval(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    together = encoder(images)
    assert_close(Capsules(*(part[1:2] for part in together)), encoder(images[1:2]))


@VARIANTS
def test_gradient_reaches_every_parameter(pose_norm):
    encoder = ResNetEncoder((1, 8, 8), pose_norm=pose_norm, **TINY)
    poses, activations = encoder(torch.rand(4, 1, 8, 8))
    (poses.pow(3).sum() + activations.pow(3).sum()).backward()
    assert all(parameter.grad.any() for parameter in encoder.parameters())


@VARIANTS
def test_blank_images_give_finite_gradients(pose_norm):
    encoder = ResNetEncoder((1, 8, 8), pose_norm=pose_norm, **TINY)
    poses, activations = encoder(torch.zeros(2, 1, 8, 8))
    (poses.pow(3).sum() + activations.sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@VARIANTS
def test_capsules_are_float32_under_autocast(pose_norm):
    encoder, images = ResNetEncoder((1, 8, 8), pose_norm=pose_norm, **TINY).eval(), torch.rand(2, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        capsules = encoder(images)
    assert capsules.poses.dtype == capsules.activations.dtype == torch.float32
    assert_close(capsules.activations, encoder(images).activations, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": (1,)}, r"blocks=\[1\], .*expected one of each"),
        ({"planes": (), "blocks": (), "strides": ()}, "expected one of each"),
        ({"stem": 0}, "stem=0, .*expected at least 1"),
        ({"blocks": (1, 0)}, r"blocks=\[1, 0\], .*expected at least 1"),
        ({"num_types": 0}, "num_types=0: expected at least 1"),
        ({"dim": 0}, "dim=0: expected at least 1"),
        ({"primary_kernel_size": 0}, "primary_kernel_size=0: expected at least 1"),
        ({"pose_norm": "group"}, "pose_norm='group': expected one of batch, layer"),
        ({"activation": "softmax"}, "activation='softmax': expected one of sigmoid, one"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        ResNetEncoder((1, 8, 8), **TINY | options)
