"""The encoder of matrix capsules: parameters of the paper, layout of map and capsules, refused sizes."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.encoders.matrix import MatrixEncoder
from capsule_lightning.errors import InputError


def test_map_and_parameters_of_the_papers_network():
    encoder = MatrixEncoder((2, 32, 32))
    assert (encoder.size, encoder.num_types, encoder.dim) == ((14, 14), 32, 16)
    assert sum(p.numel() for p in encoder.parameters()) == (2 * 25 * 32 + 32) + 33 * 32 * 17
    poses, activations = encoder.maps(torch.rand(2, 2, 32, 32))
    assert poses.shape == (2, 14, 14, 32, 16)
    assert activations.shape == (2, 14, 14, 32)
    assert ((activations > 0) & (activations < 1)).all()


@pytest.mark.parametrize("normalize", [False, True])
def test_each_capsule_is_a_linear_map_of_its_position(normalize):
    encoder = MatrixEncoder((1, 9, 11), channels=5, num_types=3, dim=4, normalize=normalize).eval()
    images = torch.rand(2, 1, 9, 11)
    features = encoder.features(images)
    poses, activations = encoder.maps(images)
    for y, x, t in [(0, 0, 0), (2, 3, 1), (1, 0, 2)]:
        here = features[:, :, y, x]
        conv, scores = encoder.poses, encoder.activations[0]
        pose, logit = here @ conv.weight[4 * t : 4 * t + 4, :, 0, 0].T, here @ scores.weight[t, :, 0, 0]
        if not normalize:
            pose, logit = pose + conv.bias[4 * t : 4 * t + 4], logit + scores.bias[t]
        scale = (1 + 1e-5) ** -0.5 if normalize else 1  # fresh statistics: mean 0, variance 1
        assert_close(poses[:, y, x, t], scale * pose)
        assert_close(activations[:, y, x, t], torch.sigmoid(scale * logit))


def test_flat_capsules_are_ordered_by_row_column_type():
    encoder = MatrixEncoder((1, 9, 11), channels=5, num_types=3, dim=4)
    images = torch.rand(2, 1, 9, 11)
    flat, maps = encoder(images), encoder.maps(images)
    assert encoder.num_capsules == flat.poses.shape[1] == 3 * 4 * 3
    assert torch.equal(flat.poses[:, (2 * 4 + 1) * 3 + 2], maps.poses[:, 2, 1, 2])
    assert torch.equal(flat.activations[:, (2 * 4 + 1) * 3 + 2], maps.activations[:, 2, 1, 2])


def test_activations_keep_float32_in_half_precision():
    encoder = MatrixEncoder((1, 9, 9), channels=4, num_types=2, dim=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder.maps(torch.rand(1, 1, 9, 9)).activations.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"), [({"num_types": 0}, "num_types=0, .*expected at least 1"), ({}, "images of 4x4")]
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        MatrixEncoder((1, 4, 4), **options)


def test_normalized_poses_have_one_mean_and_variance_a_type():
    encoder = MatrixEncoder((1, 9, 11), channels=5, num_types=3, dim=4, normalize=True)
    poses = encoder.maps(torch.rand(8, 1, 9, 11)).poses
    assert_close(poses.mean(dim=(0, 1, 2, 4)), torch.zeros(3), rtol=0, atol=1e-5)
    assert_close(poses.var(dim=(0, 1, 2, 4), correction=0), torch.ones(3), rtol=0, atol=1e-2)
    assert (poses.mean(dim=(0, 1, 2)).abs() > 1e-3).any()  # of each element it is not
    assert not any("bias" in name and "norm" not in name for name, _ in encoder.poses.named_parameters())
