"""Convolutional capsules: each window routed alone gives what the layer gives."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.windows import Windows, coordinate_offsets
from capsule_lightning.models.conv_capsules import ConvCapsules
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.em import EMRouting
from capsule_lightning.routing.uniform import UniformRouting

TYPES, DIM = 3, 4


def maps(rows=5, columns=4, batch=2):
    """Child capsules on a map in float64."""
    poses = torch.randn(batch, rows, columns, TYPES, DIM, dtype=torch.float64)
    return Capsules(poses, torch.rand(batch, rows, columns, TYPES, dtype=torch.float64))


def layer(routing=DynamicRouting, size=(5, 4), **options):
    return ConvCapsules(size, TYPES, DIM, 2, DIM, routing=routing, **options).double()


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_are_routed_each_by_the_same_routing(stride):
    conv, capsules = layer(stride=stride), maps()
    parents, couplings = conv(capsules), conv.couplings(capsules)
    assert parents.poses.shape == (2, *conv.out_size, 2, DIM)
    for y in range(conv.out_size[0]):
        for x in range(conv.out_size[1]):
            rows, columns = (slice(stride * n, stride * n + 3) for n in (y, x))
            window = Capsules(*(part[:, rows, columns].flatten(1, 3) for part in capsules))
            alone = conv.routing(window)
            assert_close(parents.poses[:, y, x], alone.poses)
            assert_close(parents.activations[:, y, x], alone.activations)
            assert_close(couplings[:, y, x], conv.routing.couplings(window))


def test_padding_adds_absent_capsules():
    conv, capsules = layer(padding=1), maps()
    wide = Capsules(
        torch.nn.functional.pad(capsules.poses, (0, 0, 0, 0, 1, 1, 1, 1)),
        torch.nn.functional.pad(capsules.activations, (0, 0, 1, 1, 1, 1)),
    )
    without = layer(size=(7, 6))
    without.load_state_dict(conv.state_dict())
    assert conv(capsules).poses.shape[1:3] == (5, 4)
    assert_close(conv(capsules), without(wide))


def test_a_convolution_moves_with_its_input():
    conv, capsules = layer(size=(9, 9)), maps(9, 9)
    moved = Capsules(*(part.roll((1, 2), dims=(1, 2)) for part in capsules))
    before, after = conv(capsules).poses, conv(moved).poses
    assert_close(after[:, 1:, 2:], before[:, :-1, :-2])


def test_votes_shared_over_positions_do_not_see_the_order_of_the_positions():
    shared = layer(kernel_size=None, share_votes=True)
    alone = layer(kernel_size=None)
    assert shared.routing.weight.shape[0] == TYPES
    assert alone.routing.weight.shape[0] == 5 * 4 * TYPES
    capsules = maps()
    upside_down = Capsules(*(part.flip(1) for part in capsules))
    assert_close(shared(capsules), shared(upside_down))
    assert not torch.allclose(alone(capsules).poses, alone(upside_down).poses)


def test_coordinates_tell_the_positions_apart():
    blind = layer(EMRouting, kernel_size=None, share_votes=True)
    seeing = layer(EMRouting, kernel_size=None, share_votes=True, coordinates=True)
    seeing.load_state_dict(blind.state_dict())
    capsules = maps()
    upside_down = Capsules(*(part.flip(1) for part in capsules))
    assert_close(blind(capsules), blind(upside_down))
    assert not torch.allclose(seeing(capsules).activations, seeing(upside_down).activations)


def test_coordinates_are_those_of_the_children():
    offsets = coordinate_offsets(Windows((4, 8), (3, 3), stride=1, padding=1), num_types=2, dim=16)
    assert offsets.shape == (4, 8, 9 * 2, 16)
    pose = offsets[1, 2].unflatten(0, (3, 3, 2))[0, 2, 1].view(4, 4)  # child in row 0, column 3
    assert_close(pose[:2, 3], torch.tensor([0.5 / 4, 3.5 / 8]))
    assert pose.count_nonzero() == 2
    vector = coordinate_offsets(Windows((4, 8), (4, 8)), num_types=1, dim=6)
    assert_close(vector[0, 0, 8 + 3], torch.tensor([1.5 / 4, 3.5 / 8, 0, 0, 0, 0]))


def test_parents_compete_across_positions():
    capsules = maps()
    across, window = layer(EMRouting), layer(EMRouting, competition="window")
    window.load_state_dict(across.state_dict())
    assert_close(window.couplings(capsules).sum(dim=-1), torch.ones(2, 3, 2, 9 * TYPES, dtype=torch.float64))
    total = across.windows.add_up(across.couplings(capsules).sum(dim=-1).unflatten(3, (9, TYPES)))
    assert_close(total, torch.ones_like(total))
    assert not torch.allclose(across(capsules).activations, window(capsules).activations)


def test_scrambled_windows_are_those_of_the_released_code():
    plain, scrambled = layer(UniformRouting), layer(UniformRouting, scrambled=True)
    capsules = maps()
    rows, columns = plain.out_size
    windows = plain.window_children(capsules).poses.unflatten(3, (9, TYPES))  # (B, y, x, p, A, D)
    found = scrambled.window_children(capsules).poses.unflatten(3, (9, TYPES))
    assert not torch.equal(windows, found)
    for p in range(9):
        for a in range(TYPES):
            expected = windows[0, :, :, p, a].permute(2, 0, 1).reshape(-1)  # element by element, positions last
            assert torch.equal(found[0, :, :, p, a].reshape(-1), expected)
    assert found.shape == (2, rows, columns, 9, TYPES, DIM)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinates": True}, "coordinates=true with DynamicRouting"),
        ({"competition": "positions"}, "competition=positions with DynamicRouting"),
        ({"competition": "all"}, "competition='all'"),
        ({"kernel_size": 7}, "map of 5x4"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        layer(**options)
