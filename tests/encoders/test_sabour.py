"""The encoder of the original network: equal to plain loops, its sizes, its padding and its order of capsules."""

from math import ceil

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.encoders.sabour import SabourEncoder, same_padding
from capsule_lightning.errors import InputError
from capsule_lightning.layers.squash import squash

TINY = {"channels": 4, "kernel_size": 3, "num_types": 2, "dim": 3, "primary_kernel_size": 4}


def convolve(maps, weight, bias, stride, padding):
    """Convolve ``maps (C, H, W)`` with ``weight (O, C, k, k)``, one output at a time, padded as TensorFlow does."""
    kernel, around = weight.shape[-1], [(0, 0)]
    for size in maps.shape[1:]:
        total = max((ceil(size / stride) - 1) * stride + kernel - size, 0) if padding == "same" else 0
        around.append((total // 2, total - total // 2))
    maps = np.pad(maps, around)
    rows, columns = ((size - kernel) // stride + 1 for size in maps.shape[1:])
    out = np.empty((len(weight), rows, columns))
    for o, r, c in np.ndindex(out.shape):
        top, left = r * stride, c * stride
        out[o, r, c] = (maps[:, top : top + kernel, left : left + kernel] * weight[o]).sum() + bias[o]
    return out


def primary_capsules(image, encoder, padding, divisor):
    """Poses ``(I, D)`` of one image, by type, row and column."""
    (w1, b1), (w2, b2) = ((f.weight.detach().numpy(), f.bias.detach().numpy()) for f in (encoder.conv, encoder.primary))
    features = np.maximum(convolve(image, w1, b1, encoder.conv.stride[0], padding), 0)
    maps = convolve(features, w2 / divisor, b2, encoder.primary.stride[0], padding)
    poses, dim = [], encoder.dim
    for kind in range(len(maps) // dim):
        for row in range(maps.shape[1]):
            for column in range(maps.shape[2]):
                s = maps[kind * dim : (kind + 1) * dim, row, column]
                poses.append((s @ s) / (1 + s @ s) * s / np.sqrt(s @ s))
    return np.array(poses)


def parameters(encoder):
    """Number of parameters."""
    return sum(parameter.numel() for parameter in encoder.parameters())


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("mode", "leaky", "divisor"), [("paper", False, 1), ("official", False, 2), ("official", True, 3)]
)
def test_equals_plain_loops(padding, stride, mode, leaky, divisor):
    encoder = SabourEncoder((2, 12, 11), stride=stride, padding=padding, mode=mode, leaky=leaky, **TINY).double()
    images = torch.rand(2, 2, 12, 11, dtype=torch.float64)
    with torch.no_grad():
        capsules = encoder(images)
    assert capsules.poses.shape == (2, encoder.num_capsules, 3)
    for image, poses, lengths in zip(images.numpy(), *capsules, strict=True):
        expected = primary_capsules(image, encoder, padding, divisor)
        np.testing.assert_allclose(poses, expected, atol=1e-10, rtol=0)
        np.testing.assert_allclose(lengths, np.linalg.norm(expected, axis=-1), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("in_shape", "options", "num_capsules", "count"),
    [
        pytest.param((1, 28, 28), {}, 1152, 20_992 + 5_308_672, id="mnist"),
        pytest.param((1, 36, 36), {}, 3200, 20_992 + 5_308_672, id="multimnist"),
        pytest.param((3, 24, 24), {"num_types": 64, "padding": "same"}, 9216, 62_464 + 10_617_344, id="cifar10"),
        pytest.param((3, 32, 32), {"channels": 64, "num_types": 16, "dim": 6}, 1024, 15_616 + 497_760, id="svhn"),
    ],
)
def test_sizes_of_the_published_networks(in_shape, options, num_capsules, count):
    with torch.device("meta"):
        encoder = SabourEncoder(in_shape, **options)
    assert encoder.num_capsules == num_capsules
    assert encoder.dim == options.get("dim", 8)
    assert parameters(encoder) == count


@pytest.mark.parametrize("in_shape", [(1, 12, 12), (3, 9, 17), (2, 16, 11)])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_any_image_size_gives_the_capsules_that_were_promised(in_shape, padding):
    encoder = SabourEncoder(in_shape, padding=padding, **TINY)
    capsules = encoder(torch.rand(2, *in_shape))
    assert capsules.poses.shape == (2, encoder.num_capsules, encoder.dim)
    assert capsules.activations.shape == (2, encoder.num_capsules)


def test_capsules_are_ordered_by_type_row_column():
    encoder = SabourEncoder((1, 11, 13), **TINY)
    images = torch.rand(2, 1, 11, 13)
    maps = encoder.primary(encoder.conv(images).relu())
    types, (rows, columns) = 2, maps.shape[-2:]
    poses = iter(encoder(images).poses.unbind(dim=1))
    for kind in range(types):
        for row in range(rows):
            for column in range(columns):
                assert_close(next(poses), squash(maps[:, 3 * kind : 3 * (kind + 1), row, column]))
    assert next(poses, None) is None


def test_primary_capsules_have_no_relu():
    poses = SabourEncoder((1, 12, 12), **TINY)(torch.rand(4, 1, 12, 12)).poses
    assert 0.2 < (poses < 0).float().mean() < 0.8


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "zeros"),
    [(24, 9, 2, (3, 4)), (24, 9, 1, (4, 4)), (23, 9, 2, (4, 4)), (5, 4, 1, (1, 2)), (6, 2, 3, (0, 0))],
)
def test_same_padding_is_that_of_tensorflow(size, kernel, stride, zeros):
    assert same_padding(size, kernel, stride) == zeros


def test_same_padding_of_the_cifar10_network():
    encoder = SabourEncoder((1, 24, 24), padding="same", channels=2, num_types=1, dim=2)
    images = torch.rand(1, 1, 24, 24)
    features = encoder.conv(F.pad(images, (4, 4, 4, 4))).relu()
    maps = encoder.primary(F.pad(features, (3, 4, 3, 4)))
    assert maps.shape[-2:] == (12, 12)
    assert_close(encoder(images).poses, squash(maps.flatten(2).mT))


def test_official_mode_starts_as_the_released_code_does():
    encoder = SabourEncoder((1, 12, 12), mode="official", **TINY | {"channels": 64, "num_types": 32})
    for layer, std in ((encoder.conv, 0.05), (encoder.primary, 0.1)):
        assert layer.bias.eq(0.1).all()
        assert 1.9 * std < layer.weight.abs().max() <= 2 * std
        # cut at two standard deviations, a normal keeps 0.880 of its own; 576 draws tell it to within a few percent
        assert_close(layer.weight.std().item(), 0.880 * std, rtol=0.1, atol=0)


def test_gradient_reaches_every_parameter():
    encoder = SabourEncoder((1, 12, 12), **TINY)
    encoder(torch.rand(2, 1, 12, 12)).poses.sum().backward()
    assert all(parameter.grad.any() for parameter in encoder.parameters())


def test_blank_image_and_zero_bias_give_finite_gradients():
    encoder = SabourEncoder((1, 12, 12), **TINY)
    torch.nn.init.zeros_(encoder.primary.bias)
    torch.nn.init.zeros_(encoder.conv.bias)
    capsules = encoder(torch.zeros(1, 1, 12, 12))
    (capsules.poses.sum() + capsules.activations.sum()).backward()
    assert not capsules.poses.any()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_capsules_are_float32_under_autocast():
    encoder, images = SabourEncoder((1, 12, 12), **TINY), torch.rand(2, 1, 12, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        capsules = encoder(images)
    assert capsules.poses.dtype == capsules.activations.dtype == torch.float32
    assert_close(capsules, encoder(images), rtol=0, atol=0.01)  # the convolutions have the eight bits of bfloat16


def test_smallest_image_gives_one_capsule_of_each_type():
    assert SabourEncoder((1, 17, 17), num_types=5).num_capsules == 5


@pytest.mark.parametrize("in_shape", [(1, 16, 28), (1, 28, 16), (3, 4, 4)])
def test_images_too_small_are_refused(in_shape):
    with pytest.raises(InputError, match=f"images of {in_shape[1]}x{in_shape[2]} are too small.* at least 17x17"):
        SabourEncoder(in_shape)


@pytest.mark.parametrize(
    "name", ["channels", "kernel_size", "stride", "num_types", "dim", "primary_kernel_size", "primary_stride"]
)
def test_sizes_below_one_are_refused(name):
    with pytest.raises(InputError, match=f"{name}=0: expected at least 1"):
        SabourEncoder((1, 28, 28), **{name: 0})


def test_leaky_is_refused_outside_official_mode():
    with pytest.raises(InputError, match=r"leaky=true with mode=paper.* use mode=official"):
        SabourEncoder((1, 28, 28), leaky=True)
