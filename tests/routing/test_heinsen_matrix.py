"""Heinsen's routing of matrices: equal to the paper's equations written as plain loops."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.routing.heinsen_matrix import HeinsenMatrixRouting, heinsen_matrix_routing

CHILDREN, PARENTS = 6, 3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def density(x, mu, variance):
    """Of a Gaussian whose dimensions are independent."""
    return np.prod(np.exp(-((x - mu) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance))


def algorithm(votes, f, use, ignore, iterations):
    """Heinsen 2019 for one example; ``votes (I, J, E)``, ``f (I)``, ``use`` and ``ignore`` ``(I, J)``."""
    children, parents, dims = votes.shape
    r = np.full((children, parents), 1 / parents)
    for t in range(iterations):
        score, mu, variance = np.zeros(parents), np.zeros((parents, dims)), np.zeros((parents, dims))
        for j in range(parents):
            total = 1e-5 + sum(f[i] * r[i, j] for i in range(children))
            for i in range(children):
                d_use = f[i] * r[i, j]
                score[j] += use[i, j] * d_use - ignore[i, j] * (f[i] - d_use)
                mu[j] += d_use / total * votes[i, j]
            variance[j] = 1e-5 + sum(f[i] * r[i, j] / total * (votes[i, j] - mu[j]) ** 2 for i in range(children))
        if t + 1 < iterations:
            for i in range(children):
                r[i] = [sigmoid(score[j]) * density(votes[i, j], mu[j], variance[j]) for j in range(parents)]
                r[i] /= sum(r[i])
    return mu, score, r


def random(*shape):
    """Numbers in float64 that want a gradient."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def moved(*shapes, **options):
    """A layer in float64 with every parameter away from its start."""
    net = HeinsenMatrixRouting(*shapes, **options).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    return net


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("vote_weights", [None, 2])
@pytest.mark.parametrize(("dim_in", "dim_out", "rows"), [(4, 5, 1), (9, 9, 3), (3, 3, 1)])
def test_equals_the_equations_of_the_paper(dim_in, dim_out, rows, vote_weights, iterations):
    routing = moved(CHILDREN, dim_in, PARENTS, dim_out, vote_weights=vote_weights, iterations=iterations)
    poses, f = torch.randn(2, CHILDREN, dim_in).double(), torch.rand(2, CHILDREN).double()
    with torch.no_grad():
        parents, couplings = routing(Capsules(poses, f)), routing.couplings(Capsules(poses, f))
    weight, bias, use, ignore = (
        np.concatenate([p.detach().numpy()] * (CHILDREN // routing.vote_weights))
        for p in (routing.weight, routing.bias, routing.use, routing.ignore)
    )
    for n in range(2):
        votes = np.zeros((CHILDREN, PARENTS, dim_out))
        for i in range(CHILDREN):
            for j in range(PARENTS):
                matrix = poses[n, i].numpy().reshape(rows, -1)
                w = weight[i, j] if rows > 1 else weight[i, j].T
                votes[i, j] = (matrix @ w).ravel() + bias[i, j]
        mu, score, r = algorithm(votes, f[n].numpy(), use, ignore, iterations)
        np.testing.assert_allclose(parents.poses[n], mu, atol=1e-9, rtol=0)
        np.testing.assert_allclose(parents.activations[n], sigmoid(score), atol=1e-9, rtol=0)
        np.testing.assert_allclose(couplings[n], r, atol=1e-9, rtol=0)


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_gradient_is_the_numerical_one(spread, iterations):
    votes = (spread * random(4, PARENTS, 2)).detach().requires_grad_()
    activations = torch.rand(4, dtype=torch.float64, requires_grad=True)
    arguments = votes, activations, random(4, PARENTS), random(4, PARENTS)
    assert torch.autograd.gradcheck(lambda *a: heinsen_matrix_routing(*a, iterations), arguments)


def test_begins_as_the_paper_does():
    square, row = HeinsenMatrixRouting(50, 16, 10, 16), HeinsenMatrixRouting(50, 8, 10, 16)
    assert square.weight.std().item() == pytest.approx(1 / 4, rel=0.05)
    assert row.weight.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert not any(p.any() for p in (square.bias, square.use, square.ignore))
    activations = square(Capsules.from_vectors(torch.randn(2, 50, 16))).activations
    assert_close(activations, torch.full((2, 10), 0.5), rtol=0, atol=0)


def test_a_silent_child_says_nothing():
    arguments = torch.rand(4), torch.randn(4, PARENTS), torch.randn(4, PARENTS)
    arguments[0][1] = 0
    votes = torch.randn(4, PARENTS, 5)
    before = heinsen_matrix_routing(votes, *arguments)
    votes[1] += 10
    after = heinsen_matrix_routing(votes, *arguments)
    assert_close(after[:2], before[:2])


def test_children_couple_to_the_parent_they_agree_about():
    agreement, quarrel = torch.zeros(4, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    votes, free = torch.stack([agreement, quarrel], dim=1), torch.zeros(4, 2)
    assert (heinsen_matrix_routing(votes, torch.ones(4), free, free)[2][:, 0] > 0.9).all()


def test_ignored_data_cost_and_used_data_pay():
    votes, activations, none = torch.randn(4, PARENTS, 5), torch.ones(4), torch.zeros(4, PARENTS)
    gain = heinsen_matrix_routing(votes, activations, none + 1, none)[1]
    loss = heinsen_matrix_routing(votes, activations, none, none + 1)[1]
    assert (gain > 0.5).all()
    assert (loss < 0.5).all()


def test_narrow_clusters_far_from_zero_keep_their_variances_in_float32():
    # a variance as the mean of squares less the square of the mean would be lost here
    votes = (30 + 0.01 * torch.randn(8, PARENTS, 4)).double()
    arguments = votes, torch.ones(8).double(), torch.zeros(8, PARENTS).double(), torch.zeros(8, PARENTS).double()
    exact = heinsen_matrix_routing(*arguments)[2]
    assert exact.amax(dim=-1).min() > 0.4  # couplings that the variances have moved away from a third
    assert_close(heinsen_matrix_routing(*(a.float() for a in arguments))[2], exact.float(), rtol=0, atol=0.01)


def test_keeps_the_votes_and_two_more_tensors_of_their_size():
    routing, poses = HeinsenMatrixRouting(40, 16, 10, 16), torch.randn(4, 40, 16)
    size, kept = 4 * 40 * 10 * 16 * 4, {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        parents = routing(Capsules.from_vectors(poses))
    assert sum(tensor.untyped_storage().nbytes() >= size for tensor in kept.values()) == 3
    parents.poses.sum().backward()


@pytest.mark.parametrize("iterations", [0, -1])
def test_fewer_than_one_pass_is_refused(iterations):
    with pytest.raises(InputError, match=f"iterations={iterations}: expected at least 1"):
        HeinsenMatrixRouting(6, 4, 3, 5, iterations=iterations)
    with pytest.raises(InputError, match=f"iterations={iterations}: expected at least 1"):
        heinsen_matrix_routing(torch.zeros(6, 3, 5), torch.ones(6), *torch.zeros(2, 6, 3), iterations=iterations)
