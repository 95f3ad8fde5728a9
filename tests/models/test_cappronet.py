"""Class capsules as subspaces of features, against the inverse of the paper, one class and one image at a time."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.errors import InputError
from capsule_lightning.losses.cross_entropy import CrossEntropyLoss
from capsule_lightning.models.cappronet import CapProNet, subspace_coordinates


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
@pytest.mark.parametrize("dim", [1, 3, 5])
def test_lengths_are_those_of_the_formula(dim, epsilon):
    features, weight = torch.randn(4, 5, dtype=torch.float64), torch.randn(3, 5, dim, dtype=torch.float64)
    lengths = subspace_coordinates(features, weight, epsilon).norm(dim=-1)
    for b, j in np.ndindex(4, 3):
        x, w = features[b].numpy(), weight[j].numpy()
        inverse = np.linalg.inv(w.T @ w + epsilon * np.eye(dim))
        assert lengths[b, j].item() == pytest.approx(np.sqrt(x @ w @ inverse @ w.T @ x), abs=1e-9)


def test_a_projection_depends_on_the_subspace_alone_and_is_never_longer_than_the_features():
    features, weight = torch.randn(6, 8), torch.randn(3, 8, 2)
    other = 100 * weight @ torch.tensor([[1.0, 2.0], [0.5, -1.0]])  # another basis of the same subspaces
    lengths, same = (subspace_coordinates(features, each, 1e-6).norm(dim=-1) for each in (weight, other))
    assert_close(lengths, same, rtol=1e-4, atol=1e-4)
    assert (lengths <= features.norm(dim=-1, keepdim=True) + 1e-5).all()
    inside = (weight[0] @ torch.randn(2, 4)).T  # features in the first subspace stay as they are
    assert_close(subspace_coordinates(inside, weight, 1e-6)[:, 0].norm(dim=-1), inside.norm(dim=-1))


def test_the_gradient_is_the_numerical_one():
    features = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: subspace_coordinates(x, w, 1e-3).norm(dim=-1), (features, weight))


@pytest.mark.parametrize("projection", [True, False])
def test_zero_features_and_dependent_columns_have_finite_gradients(projection):
    net = CapProNet((6, 1, 1), 4, dim=2, projection=projection)
    net.weight.data[0] = 0
    net.weight.data[1, :, 1] = net.weight.data[1, :, 0]
    vectors = torch.stack([torch.zeros(6), torch.randn(6)])[:, :, None, None]
    capsules = net(vectors)
    CrossEntropyLoss(of="pose_lengths")(capsules, torch.tensor([0, 1])).backward()
    assert_close(capsules.activations[0], torch.full((4,), 0.25))
    assert net.weight.grad is not None
    assert net.weight.grad.isfinite().all()


def test_the_control_is_linear_groups_of_as_many_weights():
    net = CapProNet((6, 1, 1), 4, dim=3, projection=False)
    vectors = torch.randn(5, 6, 1, 1)
    linear = F.linear(vectors[:, :, 0, 0], net.weight.movedim(1, 2).flatten(0, 1)).unflatten(1, (4, 3))
    assert_close(net(vectors).poses, linear)
    counts = {sum(p.numel() for p in CapProNet((6, 1, 1), 4, dim=3, projection=yes).parameters()) for yes in (1, 0)}
    assert counts == {4 * 6 * 3}


def test_bfloat16_projects_in_float32():
    net, vectors = CapProNet((6, 1, 1), 4), torch.randn(5, 6, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        capsules = net(vectors)
    assert capsules.poses.dtype == torch.float32
    assert torch.equal(capsules.poses, net(vectors).poses)


@pytest.mark.nightly
def test_the_loss_is_that_of_the_lengths_and_it_learns():
    net, loss = CapProNet((2, 1, 1), 2, dim=1), CrossEntropyLoss(of="pose_lengths")
    angles = torch.rand(200) * torch.pi
    vectors = 3 * torch.stack([angles.cos(), angles.sin()], dim=1)[:, :, None, None]
    labels = ((angles > torch.pi / 4) & (angles < 3 * torch.pi / 4)).long()  # nearer to one axis, on either side
    capsules = net(vectors)
    assert_close(loss(capsules, labels), F.cross_entropy(capsules.poses.norm(dim=-1), labels))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        loss(net(vectors), labels).backward()
        optimizer.step()
    assert (net(vectors).activations.argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("options", [{"dim": 0}, {"dim": 7}, {"epsilon": 0.0}])
def test_what_cannot_be_is_refused(options):
    with pytest.raises(InputError, match="expected"):
        CapProNet((6, 1, 1), 4, **options)
