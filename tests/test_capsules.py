"""Vector capsules: their activation is the length of the pose, in float32 at least."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules, lengths_of


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


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_lengths_along_any_axis_and_their_gradients(dim):
    torch.manual_seed(0)
    vectors = torch.randn(3, 4, 5, dtype=torch.float64)
    vectors.select(dim, 0)[:] = 0.0
    vectors = vectors.requires_grad_()
    found, wanted = lengths_of(vectors, dim, keepdim=True), torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    assert_close(found, wanted, rtol=1e-14, atol=0)
    upstream = torch.randn_like(wanted)
    assert_close(
        *(torch.autograd.grad(lengths, vectors, upstream)[0] for lengths in (found, wanted)), rtol=1e-13, atol=1e-15
    )
    vectors = (torch.rand(2, 3, 2, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: lengths_of(v, dim), [vectors])


def test_the_zero_vector_has_gradient_zero_along_any_axis():
    vectors = torch.zeros(4, 3, requires_grad=True)
    lengths_of(vectors, dim=0).sum().backward()
    assert torch.equal(vectors.grad, torch.zeros(4, 3))
