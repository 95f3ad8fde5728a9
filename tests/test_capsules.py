"""Vector capsules: their activation is the length of the pose, in float32 at least."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_activation_is_the_length_of_the_pose(leading):
    poses = torch.randn(*leading, 4, 3, generator=torch.Generator().manual_seed(0))
    capsules = Capsules.from_vectors(poses)
    assert capsules.poses is poses
    assert_close(capsules.activations, (poses * poses).sum(dim=-1) ** 0.5)


def test_zero_vector_has_length_and_gradient_zero():
    poses = torch.zeros(2, 4, requires_grad=True)
    lengths = Capsules.from_vectors(poses).activations
    lengths.sum().backward()
    assert not lengths.any()
    assert not poses.grad.any()


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_length_has_float32_at_least(dtype, wide):
    poses = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert_close(Capsules.from_vectors(poses).activations, poses.to(wide).norm(dim=-1))
