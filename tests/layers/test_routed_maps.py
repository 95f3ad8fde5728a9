"""The routed layer of DeepCaps, against plain loops over every child, parent, coordinate and position."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.errors import InputError
from capsule_lightning.layers.routed_maps import RoutedMaps, map_routing, map_votes, scramble

B, I, D, J, E, H, W = 2, 3, 4, 2, 5, 4, 3  # noqa: E741


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def maps():
    return torch.randn(B, I, D, H, W, dtype=torch.float64)


@pytest.fixture
def votes():
    return torch.randn(B, I, J, E, H, W, dtype=torch.float64)


def voted(maps, weight):
    """Votes ``(B, I, J, E, H, W)``: each child's map under the one kernel, a product at a time."""
    kernel = weight.shape[-1]
    before = (kernel - 1) // 2
    out = np.zeros((*maps.shape[:2], *weight.shape[:2], *maps.shape[3:]))
    for b, i, j, e, y, x in np.ndindex(*out.shape):
        for d, down, right in np.ndindex(maps.shape[2], kernel, kernel):
            row, column = y + down - before, x + right - before
            if 0 <= row < maps.shape[3] and 0 <= column < maps.shape[4]:
                out[b, i, j, e, y, x] += weight[j, e, d, down, right] * maps[b, i, d, row, column]
    return out


def routed(votes, iterations, bias):
    """Poses ``(B, J, E, H, W)`` and couplings ``(B, I, J, H, W)``, one child at a time."""
    logits = np.zeros((*votes.shape[:3], *votes.shape[4:]))
    for _ in range(iterations):
        couplings, poses = np.zeros_like(logits), np.zeros((votes.shape[0], *votes.shape[2:]))
        for b in range(len(votes)):
            for i in range(votes.shape[1]):
                couplings[b, i] = np.exp(logits[b, i]) / np.exp(logits[b, i]).sum()  # over J, H and W together
            for j in range(votes.shape[2]):
                s = sum(couplings[b, i, j] * votes[b, i, j] for i in range(votes.shape[1])) + bias[j][:, None, None]
                square = (s**2).sum()  # over E, H and W together
                poses[b, j] = square / (1 + square) * s / np.sqrt(square)
        for b, i, j in np.ndindex(*votes.shape[:3]):
            logits[b, i, j] += (votes[b, i, j] * poses[b, j]).sum(axis=0)
    return poses, couplings


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_votes_equal_the_loop(maps, kernel):
    weight = torch.randn(J, E, D, kernel, kernel, dtype=torch.float64)
    votes = map_votes(maps, weight)
    np.testing.assert_allclose(votes, voted(maps.numpy(), weight.numpy()), rtol=0, atol=1e-9)


def test_votes_are_the_3d_convolution_of_the_paper(maps):
    weight = torch.randn(J, E, D, 3, 3, dtype=torch.float64)
    stacked = maps.reshape(B, 1, I * D, H, W)
    deep = torch.conv3d(stacked, weight.reshape(J * E, 1, D, 3, 3), stride=(D, 1, 1), padding=(0, 1, 1))
    assert_close(map_votes(maps, weight), deep.reshape(B, J, E, I, H, W).permute(0, 3, 1, 2, 4, 5))


@pytest.mark.parametrize("iterations", [1, 2, 3, 4])
@pytest.mark.parametrize("biased", [False, True])
def test_routing_equals_the_loop(votes, iterations, biased):
    bias = torch.randn(J, E, dtype=torch.float64) if biased else None
    poses, couplings = map_routing(votes, iterations, bias)
    expected = routed(votes.numpy(), iterations, np.zeros((J, E)) if bias is None else bias.numpy())
    np.testing.assert_allclose(poses, expected[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(couplings, expected[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("scrambled", [False, True])
def test_layer_equals_the_loops(maps, scrambled):
    layer = RoutedMaps(I, D, J, E, scrambled=scrambled).double()
    torch.nn.init.normal_(layer.bias)
    children = maps.numpy()
    if scrambled:
        memory = [
            maps[b, i, d, y, x]
            for b in range(B)
            for y in range(H)
            for x in range(W)
            for i in range(I)
            for d in range(D)
        ]
        children = np.array(memory).reshape(B, I, D, H, W)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    poses, couplings = routed(voted(children, weight), 3, bias)
    np.testing.assert_allclose(layer(maps).detach(), poses, rtol=0, atol=1e-9)
    np.testing.assert_allclose(layer.couplings(maps).detach(), couplings, rtol=0, atol=1e-9)


def test_scrambled_reading_moves_every_value_and_loses_none(maps):
    read = scramble(maps)
    assert torch.equal(read.flatten(1).sort().values, maps.flatten(1).sort().values)
    assert (read == maps).double().mean() < 0.1


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_couplings_of_a_child_sum_to_one_over_parents_rows_and_columns(votes, scale):
    couplings = map_routing(scale * votes)[1]
    assert couplings.shape == (B, I, J, H, W)
    assert_close(couplings.sum(dim=(2, 3, 4)), torch.ones(B, I, dtype=torch.float64))
    assert couplings.std() > 0
    assert_close(map_routing(votes, iterations=1)[1], torch.full_like(couplings, 1 / (J * H * W)))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e6])
def test_a_whole_map_of_one_parent_type_is_shorter_than_one(votes, scale):
    poses = map_routing((scale * votes).float())[0]
    lengths = poses.flatten(2).norm(dim=-1)
    assert poses.isfinite().all()
    assert (lengths <= 1).all()
    assert scale < 1 or (lengths > 0.01).all()


def test_types_of_children_may_change_places(maps):
    layer, order = RoutedMaps(I, D, J, E).double(), torch.tensor([2, 0, 1])
    assert_close(layer(maps[:, order]), layer(maps))
    assert_close(layer.couplings(maps[:, order]), layer.couplings(maps)[:, order])


def test_examples_do_not_see_each_other(maps):
    layer = RoutedMaps(I, D, J, E).double()
    assert_close(layer(maps)[:1], layer(maps[:1]))


def test_gradient_of_routing_is_the_numerical_one():
    votes = torch.randn(1, 2, 2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, b: map_routing(v, 3, b), (votes, bias))


def test_gradient_of_votes_is_the_numerical_one():
    maps = torch.randn(1, 2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(map_votes, (maps, weight))


def test_zero_votes_give_zero_and_finite_gradients():
    votes = torch.zeros(B, I, J, E, H, W, requires_grad=True)
    poses, _ = map_routing(votes)
    poses.sum().backward()
    assert not poses.any()
    assert not votes.grad.any()


def test_gradient_reaches_children_and_every_parameter(maps):
    layer = RoutedMaps(I, D, J, E).double()
    maps.requires_grad_()
    layer(maps).square().sum().backward()
    assert maps.grad.all()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def test_routing_is_float32_under_autocast(maps):
    layer, maps = RoutedMaps(I, D, J, E), maps.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        votes, parents = map_votes(maps, layer.weight), layer(maps)
    assert votes.dtype == torch.bfloat16
    assert parents.dtype == torch.float32
    assert_close(parents, map_routing(votes.float(), 3, layer.bias)[0], rtol=0, atol=0)
    assert_close(parents, layer(maps), rtol=0, atol=0.01)  # the votes have the eight bits of bfloat16


def test_begins_as_the_released_code_does():
    layer = RoutedMaps(32, 8, 32, 8)
    assert layer.bias.eq(0.1).all()
    assert layer.weight.shape == (32, 8, 8, 3, 3)
    # fan-in of one child: 8 x 3 x 3; 18,432 draws tell it to within a percent or two
    assert_close(layer.weight.std().item(), (2 / 72) ** 0.5, rtol=0.03, atol=0)
    assert abs(layer.weight.mean().item()) < 0.01
    # as many draws of a normal distribution reach about four deviations, and a uniform one ends at 1.7
    assert 3.3 < layer.weight.abs().max().item() / (2 / 72) ** 0.5 < 6


@pytest.mark.parametrize("name", ["num_in", "dim_in", "num_out", "dim_out"])
def test_sizes_below_one_are_refused(name):
    sizes = {"num_in": 1, "dim_in": 1, "num_out": 1, "dim_out": 1} | {name: 0}
    with pytest.raises(InputError, match=f"{name}=0: expected at least 1"):
        RoutedMaps(**sizes)


@pytest.mark.parametrize("kernel_size", [0, 2])
def test_kernels_without_a_middle_are_refused(kernel_size):
    with pytest.raises(InputError, match=f"kernel_size={kernel_size}: expected an odd number"):
        RoutedMaps(I, D, J, E, kernel_size=kernel_size)


def test_no_pass_of_routing_is_refused(votes):
    with pytest.raises(InputError, match="iterations=0: expected at least 1"):
        RoutedMaps(I, D, J, E, iterations=0)
    with pytest.raises(InputError, match="iterations=0: expected at least 1"):
        map_routing(votes, iterations=0)
