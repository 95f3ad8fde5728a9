"""Read-out: a sigmoid of a linear score, in full precision."""

import torch
from torch.testing import assert_close

from capsule_lightning.layers.readout import ActivationReadout, read_activations


def test_is_the_sigmoid_of_one_score_for_all_capsules():
    poses, weight, bias = torch.randn(2, 3, 4), torch.randn(1, 4), torch.randn(1)
    activations = read_activations(poses, weight, bias)
    assert activations.shape == (2, 3)
    for b in range(2):
        for j in range(3):
            assert_close(activations[b, j], 1 / (1 + torch.exp(-(weight[0] @ poses[b, j] + bias[0]))))


def test_reads_its_own_score():
    readout, poses = ActivationReadout(4), torch.randn(2, 3, 4)
    assert_close(readout(poses).logit(), readout.score(poses).squeeze(-1))


def test_half_precision_poses_are_read_in_float32():
    readout, poses = ActivationReadout(4), torch.randn(2, 3, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        activations = readout(poses)
    assert_close(activations, readout(poses.float()), rtol=0, atol=0)


def test_float64_stays_float64():
    assert ActivationReadout(4).double()(torch.zeros(3, 4, dtype=torch.float64)).dtype == torch.float64


def test_the_module_has_one_score_for_each_capsule():
    readout, poses = ActivationReadout(4), torch.randn(2, 3, 4)
    assert readout(poses).shape == (2, 3)
    assert_close(readout(poses), read_activations(poses, *readout.parameters()))
    assert [tuple(parameter.shape) for parameter in readout.parameters()] == [(1, 4), (1,)]
