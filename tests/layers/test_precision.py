"""Full precision: what is widened, what is left alone, and that autocast is off inside and on again outside."""

import pytest
import torch

from capsule_lightning.layers.precision import full_precision


@full_precision
def product(a, b, *, scale=None):
    """Return the product of two matrices, which autocast would compute in half precision."""
    return a @ b if scale is None else a @ b * scale


@full_precision
def returned(*args, **kwargs):
    """Return the arguments as the decorated function sees them."""
    return args, kwargs


def test_autocast_is_off_inside_and_on_again_after():
    a = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, outside = product(a, b=a), a @ a
    assert inside.dtype == torch.float32
    assert outside.dtype == torch.bfloat16
    torch.testing.assert_close(inside, a @ a, rtol=0, atol=0)


def test_autocast_is_off_where_only_keywords_are_tensors():
    a = torch.ones(3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(a=a, b=a).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensors_are_widened(dtype):
    args, kwargs = returned(torch.ones(2, dtype=dtype), named=torch.ones(2, dtype=dtype))
    assert args[0].dtype == kwargs["named"].dtype == torch.float32


@pytest.mark.parametrize("value", [torch.ones(2), torch.ones(2).double(), torch.ones(2).long(), 3, None, "paper"])
def test_everything_else_is_left_alone(value):
    args, kwargs = returned(value, named=value)
    assert args[0] is value
    assert kwargs["named"] is value


def test_gradient_flows_back_in_the_precision_of_the_argument():
    a = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    product(a, a, scale=2.0).sum().backward()
    assert a.grad.dtype == torch.bfloat16
    assert a.grad.eq(8).all()


def test_name_and_docstring_survive():
    assert product.__name__ == "product"
    assert product.__doc__.startswith("Return the product")
