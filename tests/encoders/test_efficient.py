"""The encoder of Efficient-CapsNet: parameter counts of the paper, layout of the capsules, refused sizes."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.encoders.base import capsules_of_maps
from capsule_lightning.encoders.efficient import EfficientEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.layers.squash import exponential_squash


@pytest.mark.parametrize(
    ("in_shape", "options", "parameters"),
    [
        ((1, 28, 28), {}, 161_824 - 20_640),
        ((1, 36, 36), {"strides": (1, 1, 2, 2), "primary_kernel_size": 5, "primary_stride": 2}, 154_656 - 20_640),
        (
            (2, 48, 48),
            {"kernel_sizes": (7, 3, 3, 3), "strides": (2, 1, 1, 2), "norm": "instance", "slope": 0.3},
            151_664 - 10_320,
        ),
    ],
    ids=["mnist", "multimnist", "smallnorb"],
)
def test_parameters_and_capsules_of_the_papers_networks(in_shape, options, parameters):
    encoder = EfficientEncoder(in_shape, **options)
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert (encoder.num_capsules, encoder.dim) == (16, 8)
    assert encoder(torch.rand(2, *in_shape)).poses.shape == (2, 16, 8)


def test_one_capsule_is_a_group_of_neighboring_channels():
    encoder = EfficientEncoder((1, 28, 28)).eval()
    images = torch.rand(2, 1, 28, 28)
    maps = encoder.primary(encoder.features(images))
    for n in range(encoder.num_capsules):
        assert_close(encoder(images).poses[:, n], exponential_squash(maps[:, 8 * n : 8 * n + 8, 0, 0]))


@pytest.mark.parametrize("in_shape", [(3, 40, 31), (1, 28, 28)])
def test_states_how_many_capsules_come_out(in_shape):
    encoder = EfficientEncoder(
        in_shape, channels=(4, 6), kernel_sizes=(5, 3), strides=(2, 1), dim=3, primary_kernel_size=3
    )
    assert encoder(torch.rand(2, *in_shape)).poses.shape == (2, encoder.num_capsules, encoder.dim)


def test_capsules_are_ordered_by_type_row_column():
    maps = torch.arange(2 * 3 * 4 * 5).reshape(1, 6, 4, 5)
    poses = capsules_of_maps(maps, dim=3)
    assert poses.shape == (1, 2 * 4 * 5, 3)
    assert_close(poses[0, 1 * 20 + 2 * 5 + 3], maps[0, 3:6, 2, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": (1, 1)}, r"strides=\[1, 1\]: expected one of each"),
        ({"channels": (32, 64, 64, 100)}, "dim=8: expected a number that divides .*100"),
        ({"dim": 0}, "dim=0.*: expected at least 1"),
        ({"norm": "layer"}, "norm='layer': expected one of batch, instance"),
        ({"primary_kernel_size": 10}, "leave maps of 9x9 for the primary capsules"),
        ({"kernel_sizes": (29, 3, 3, 3)}, "leave maps of 0x0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        EfficientEncoder((1, 28, 28), **options)
