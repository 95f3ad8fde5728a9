"""Squash: its formula, its value and gradient at the hard places, and its precision."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.layers.squash import exponential_squash, squash, squash_gradient


@pytest.mark.parametrize(("length", "squashed"), [(0.5, 0.2), (1.0, 0.5), (3.0, 0.9), (7.0, 0.98)])
def test_keeps_the_direction_and_shrinks_the_length(length, squashed):
    direction = torch.tensor([0.48, -0.64, 0.6], dtype=torch.float64)
    assert_close(squash(length * direction), squashed * direction)


def test_equals_the_formula_of_the_paper():
    s = np.random.default_rng(0).normal(size=(5, 3, 8))
    length = np.sqrt((s**2).sum(axis=-1, keepdims=True))
    expected = length**2 / (1 + length**2) * s / length
    np.testing.assert_allclose(squash(torch.from_numpy(s)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("dim", [0, 1, -2])
def test_squashes_along_any_dimension(dim):
    s = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    assert_close(squash(s, dim=dim), squash(s.movedim(dim, -1)).movedim(-1, dim))


def test_zero_vector_has_value_and_gradient_zero():
    s = torch.zeros(2, 4, requires_grad=True)
    v = squash(s)
    (gradient,) = torch.autograd.grad(v.sum(), s)
    assert_close(v, torch.zeros(2, 4))
    assert_close(gradient, torch.zeros(2, 4))


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e4, 1e10])
def test_extreme_vectors_stay_finite(size):
    s = torch.full((4,), size, requires_grad=True)
    v = squash(s)
    (gradient,) = torch.autograd.grad(v.sum(), s)
    assert gradient.isfinite().all()
    assert_close(v.norm(), torch.tensor(1.0 if size > 1 else 0.0))


def test_slope_of_the_length_is_largest_at_one_over_root_three():
    lengths = (torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64) / 3**0.5).unsqueeze(-1).requires_grad_()
    (slope,) = torch.autograd.grad(squash(lengths).sum(), lengths)
    assert slope.argmax() == 1
    assert_close(slope[1].item(), 0.6495190528383290)


@pytest.mark.parametrize("s", [torch.zeros(2, 3), torch.tensor([[0.1, -2.0, 3.0], [1e-3, 0.0, 0.0]])])
def test_gradient_is_the_numerical_one(s):
    torch.autograd.gradcheck(squash, s.double().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_first(dtype):
    s = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert_close(squash(s), squash(s.float()), rtol=0, atol=0)


def test_gradient_by_hand_is_the_gradient():
    s = torch.cat([torch.randn(4, 3), torch.zeros(1, 3), torch.full((1, 3), 1e-30)]).double().requires_grad_()
    upstream = torch.randn(6, 3, dtype=torch.float64)
    (expected,) = torch.autograd.grad(squash(s), s, upstream)
    assert_close(squash_gradient(s.detach(), upstream), expected, atol=1e-14, rtol=1e-12)


def test_exponential_squash_is_the_formula_and_keeps_the_direction():
    s = torch.randn(5, 3, dtype=torch.float64)
    length = s.norm(dim=-1, keepdim=True)
    assert_close(exponential_squash(s), (1 - (-length).exp()) * s / length)
    assert_close(exponential_squash(s.T, dim=0), exponential_squash(s).T)


def test_exponential_squash_has_slope_one_at_zero():
    s = torch.zeros(2, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(exponential_squash(s).sum(), s)
    assert_close(slope, torch.ones(2, 3))
    assert torch.autograd.gradcheck(exponential_squash, torch.randn(2, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("size", [1e-30, 1e-7, 1e4, 1e18])
def test_exponential_squash_of_extreme_vectors_stays_finite(size):
    s = torch.full((4,), size, requires_grad=True)
    v = exponential_squash(s)
    (gradient,) = torch.autograd.grad(v.sum(), s)
    assert gradient.isfinite().all()
    assert_close(v.norm(), torch.tensor(1.0 if size > 1 else 2 * size))
