"""Losses of joints: smooth L1 over what is labeled, and sums whose weights are learned."""

import pytest
import torch

from capsule_lightning.errors import InputError
from capsule_lightning.losses.joints import joint_loss, learned_sum


def test_distances_below_beta_are_squared_and_larger_ones_are_not() -> None:
    targets = torch.zeros(1, 2, 2)
    joints = torch.tensor([[[0.1, -0.5], [0.0, 2.0]]])
    expected = (0.1**2 / 0.4 + (0.5 - 0.1) + 0 + (2 - 0.1)) / 4
    assert joint_loss(joints, targets, beta=0.2).item() == pytest.approx(expected)


def test_joints_that_are_not_labeled_have_neither_loss_nor_gradient() -> None:
    joints = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], requires_grad=True)
    targets = torch.tensor([[[1.5, 2.0], [float("nan"), float("nan")]]])
    loss = joint_loss(joints, targets)
    loss.backward()
    assert loss.item() == pytest.approx((0.5 - 0.01) / 2)
    assert joints.grad is not None
    assert not joints.grad[0, 1].any()
    assert joints.grad[0, 0, 0] < 0
    nothing = joint_loss(joints, torch.full_like(targets, float("nan")))
    assert nothing.item() == 0
    nothing.backward()
    assert joints.grad.isfinite().all()


def test_gradients_are_those_of_the_loss() -> None:
    joints = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    targets = torch.randn(2, 3, 2, dtype=torch.float64)
    targets[0, 1] = float("nan")
    assert torch.autograd.gradcheck(lambda each: joint_loss(each, targets, 0.3), joints)


def test_learned_weights_are_best_at_the_size_of_their_loss() -> None:
    losses = torch.tensor([0.5, 3.0], dtype=torch.float64)
    scores = losses.log().requires_grad_()
    (gradient,) = torch.autograd.grad(learned_sum(losses, scores), scores)
    assert torch.allclose(gradient, torch.zeros(2, dtype=torch.float64), atol=1e-12)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"joints of shape \(1, 2, 2\): expected \(1, 2, 3\)"):
        joint_loss(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3))
