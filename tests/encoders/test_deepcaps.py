"""The encoder of DeepCaps: parameter counts, cells equal to plain loops, order of the capsules, refused sizes."""

from functools import partial
from math import ceil

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from capsule_lightning.decoders.class_independent import ClassIndependentDecoder
from capsule_lightning.encoders.deepcaps import Cell, DeepCapsEncoder, SquashedConv
from capsule_lightning.errors import InputError
from capsule_lightning.layers.routed_maps import RoutedMaps
from capsule_lightning.layers.squash import squash
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.dynamic import DynamicRouting

TINY = {"channels": 5, "num_types": 3, "dims": (2, 4, 4, 4)}
# kernels of 3x3 from 128 or 256 coordinates to 128 or 256; in the last cell the routed kernel and bias for one of them
CELLS = 9 * (4 * 128 * 128 + 128 * 256 + 3 * 256 * 256 + 4 * 256 * 256 + 3 * 256 * 256) + 9 * 8 * 256 + 256


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def parameters(module):
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def convolve_and_squash(maps, weight, dim, stride):
    """Poses ``(types, dim, rows, columns)`` of ``maps (C, H, W)``, one product at a time, padded as TensorFlow does."""
    kernel, around = weight.shape[-1], [(0, 0)]
    for size in maps.shape[1:]:
        total = max((ceil(size / stride) - 1) * stride + kernel - size, 0)
        around.append((total // 2, total - total // 2))
    padded = np.pad(maps, around)
    rows, columns = (ceil(size / stride) for size in maps.shape[1:])
    out = np.empty((len(weight) // dim, dim, rows, columns))
    for kind, r, c in np.ndindex(len(out), rows, columns):
        window = padded[:, r * stride : r * stride + kernel, c * stride : c * stride + kernel]
        s = np.array([(window * weight[kind * dim + d]).sum() for d in range(dim)])
        out[kind, :, r, c] = (s @ s) / (1 + s @ s) * s / np.sqrt(s @ s)
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 5), (1, 4)])
def test_convolution_of_capsules_equals_the_loop(stride, size):
    layer = SquashedConv(6, 3, 4, stride).double()
    maps = torch.randn(2, 3, 2, *size, dtype=torch.float64)
    with torch.no_grad():
        poses = layer(maps)
    for image, found in zip(maps.flatten(1, 2).numpy(), poses, strict=True):
        expected = convolve_and_squash(image, layer.conv.weight.detach().numpy(), 4, stride)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


class Scaled(nn.Module):
    """Something else to go past the convolutions of a cell."""

    def forward(self, maps):
        return 10 * maps


@pytest.mark.parametrize("past", [None, Scaled()])
def test_cell_adds_what_goes_through_and_what_goes_past(past):
    cell = Cell(6, 3, 4, past).double()
    maps = torch.randn(1, 3, 2, 7, 6, dtype=torch.float64)

    def apply(layer, image):
        weight, stride = layer.conv.weight.detach().numpy(), layer.conv.stride[0]
        return convolve_and_squash(image.reshape(-1, *image.shape[-2:]), weight, 4, stride)

    half = apply(cell.down, maps[0].numpy())
    assert half.shape == (3, 4, 4, 3)
    expected = apply(cell.through[1], apply(cell.through[0], half))
    expected = expected + (apply(cell.past, half) if past is None else 10 * half)
    np.testing.assert_allclose(cell(maps)[0].detach(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("in_shape", "first", "num_capsules", "decoder", "total"),
    [
        pytest.param((3, 64, 64), 27 * 128 + 128, 2560, 67_571, 13_426_995, id="64x64"),
        pytest.param((1, 28, 28), 9 * 128 + 128, 640, 58_417, 8_500_337, id="28x28"),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_parameters_of_the_released_networks(in_shape, first, num_capsules, decoder, total, shared):
    routing = partial(DynamicRouting, bias=True, vote_weights=32 if shared else None)
    with torch.device("meta"):
        net = CapsNet(in_shape, 10, encoder=DeepCapsEncoder, routing=routing, decoder=ClassIndependentDecoder, dim=32)
    assert (net.encoder.num_capsules, net.encoder.dim) == (num_capsules, 8)
    assert parameters(net.encoder) == first + 2 * 128 + CELLS
    assert parameters(net.routing) == (32 if shared else num_capsules) * 10 * 32 * 8 + 10 * 32
    assert parameters(net.decoder) == decoder
    if not shared:
        assert parameters(net) == total
        assert round((total - decoder) / 1e6, 2) == {2560: 13.36, 640: 8.44}[num_capsules]


@pytest.mark.parametrize("in_shape", [(3, 32, 32), (1, 28, 28), (2, 17, 40), (1, 8, 8), (1, 3, 5)])
def test_states_how_many_capsules_come_out(in_shape):
    encoder = DeepCapsEncoder(in_shape, **TINY)
    capsules = encoder(torch.rand(2, *in_shape))
    assert capsules.poses.shape == (2, encoder.num_capsules, encoder.dim)
    assert capsules.activations.shape == (2, encoder.num_capsules)


def test_capsules_are_ordered_by_cell_row_column_type():
    encoder, images = DeepCapsEncoder((1, 40, 24), **TINY), torch.rand(2, 1, 40, 24)
    maps, outputs = encoder.features(images).unsqueeze(2), []
    for cell in encoder.cells:
        maps = cell(maps)
        outputs.append(maps)
    assert [tuple(maps.shape[-2:]) for maps in outputs] == [(20, 12), (10, 6), (5, 3), (3, 2)]
    assert all(maps.flatten(1).std(dim=1).min() > 1e-3 for maps in outputs[2:])  # far above the tolerance below
    poses = iter(encoder(images).poses.unbind(dim=1))
    for maps in outputs[2:]:
        for row, column, kind in np.ndindex(*maps.shape[-2:], 3):
            assert_close(next(poses), maps[:, kind, :, row, column])
    assert next(poses, None) is None


def test_shared_votes_use_one_matrix_a_type():
    encoder = DeepCapsEncoder((1, 32, 32), **TINY)
    routing = DynamicRouting(encoder.num_capsules, 4, 2, 5, iterations=1, vote_weights=3)
    images = torch.rand(2, 1, 32, 32)
    capsules = encoder(images)
    with torch.no_grad():
        routing.weight[1:] = 0  # what is left are the votes of type 0, at all positions of both maps
    maps = encoder.features(images).unsqueeze(2)
    total = 0
    for number, cell in enumerate(encoder.cells):
        maps = cell(maps)
        total = total + (maps[:, 0].sum(dim=(-2, -1)) if number > 1 else 0)
    s = torch.einsum("jed,bd->bje", routing.weight[0], total) / 2  # uniform couplings to two parents
    assert_close(routing(capsules).poses, squash(s))


@pytest.mark.parametrize("scrambled", [False, True])
def test_last_cell_alone_is_routed(scrambled):
    encoder = DeepCapsEncoder((1, 28, 28), iterations=2, scrambled=scrambled, **TINY)
    assert [type(cell.past) for cell in encoder.cells] == [SquashedConv] * 3 + [RoutedMaps]
    routed = encoder.cells[3].past
    assert (routed.iterations, routed.scrambled) == (2, scrambled)


def test_scrambled_changes_the_last_cell_alone():
    one, other = (DeepCapsEncoder((1, 28, 28), scrambled=scrambled, **TINY) for scrambled in (False, True))
    other.load_state_dict(one.state_dict())
    images = torch.rand(2, 1, 28, 28)
    split = 4 * 4 * 3
    assert_close(one(images).poses[:, :split], other(images).poses[:, :split])
    assert not torch.allclose(one(images).poses[:, split:], other(images).poses[:, split:], atol=1e-3)


def test_activations_are_lengths_cut_at_one():
    encoder = DeepCapsEncoder((1, 28, 28), **TINY)
    for parameter in encoder.parameters():
        parameter.data *= 4
    poses, activations = encoder(torch.rand(4, 1, 28, 28))
    lengths = poses.norm(dim=-1)
    assert (lengths > 1).any()
    assert (lengths < 1).any()
    assert_close(activations, lengths.clamp(max=1))


def test_capsules_do_not_fade_with_depth():
    encoder = DeepCapsEncoder((3, 32, 32), num_types=8)
    activations = encoder(torch.rand(4, 3, 32, 32)).activations
    assert activations[:, : 4 * 4 * 8].mean() > 0.2  # of the third cell; the fourth has a bias


def test_gradient_reaches_every_parameter():
    encoder = DeepCapsEncoder((1, 28, 28), **TINY)
    encoder(torch.rand(2, 1, 28, 28)).poses.square().sum().backward()
    assert all(parameter.grad.any() for parameter in encoder.parameters())


def test_dead_capsules_give_finite_gradients():
    encoder = DeepCapsEncoder((1, 28, 28), **TINY)
    nn.init.zeros_(encoder.features[0].bias)
    capsules = encoder(torch.zeros(2, 1, 28, 28))
    (capsules.poses.sum() + capsules.activations.sum()).backward()
    assert not capsules.poses[:, : 4 * 4 * 3].any()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_capsules_are_float32_under_autocast():
    encoder, images = DeepCapsEncoder((1, 28, 28), **TINY), torch.rand(2, 1, 28, 28)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        capsules = encoder(images)
    assert capsules.poses.dtype == capsules.activations.dtype == torch.float32
    assert_close(capsules, encoder(images), rtol=0, atol=0.03)  # eleven convolutions of the eight bits of bfloat16


def test_float64_stays_float64():
    encoder = DeepCapsEncoder((1, 28, 28), **TINY).double()
    capsules = encoder(torch.rand(2, 1, 28, 28, dtype=torch.float64))
    assert capsules.poses.dtype == capsules.activations.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": (4, 8, 8)}, r"dims=\[4, 8, 8\]: expected four"),
        ({"dims": (4, 8, 8, 16)}, r"dims=\[4, 8, 8, 16\]: expected four .*the last two equal"),
        ({"dims": (0, 8, 8, 8)}, r"dims=\[0, 8, 8, 8\]: expected at least 1"),
        ({"channels": 0}, "channels=0.*: expected at least 1"),
        ({"num_types": 0}, "num_types=0.*: expected at least 1"),
        ({"iterations": 0}, "iterations=0: expected at least 1"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DeepCapsEncoder((1, 28, 28), **options)


def test_convolutions_begin_as_the_released_code_does():
    weight = SquashedConv(16, 4, 8).conv.weight.detach()
    assert weight.numel() == 16 * 32 * 9
    deviation = 4608 ** (-1 / 4)  # 4,608 draws tell it to within a percent or two
    assert_close(weight.std().item(), deviation, rtol=0.04, atol=0)
    assert_close(weight.max().item(), 3**0.5 * deviation, rtol=0.01, atol=0)  # uniform: sqrt(3) deviations either way
    assert_close(weight.min().item(), -(3**0.5) * deviation, rtol=0.01, atol=0)
