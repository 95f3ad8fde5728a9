"""Products on the CPU: the same by either library, for what suits oneDNN and for what does not."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.kernels import cpu_products


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"], autouse=True)
def fast(request, monkeypatch):
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(cpu_products, "_has_fast_linear", lambda: request.param)
    torch.manual_seed(0)
    return request.param


def laid_out(layout, *shape, dtype=torch.float32):
    """Random numbers, their rows one after the other, their columns, or with gaps."""
    *leading, rows, columns = shape
    if layout == "columns":
        return torch.randn(*leading, columns, rows, dtype=dtype).mT
    return (
        torch.randn(*leading, rows, columns + 3, dtype=dtype)[..., :columns]
        if layout == "gaps"
        else torch.randn(shape, dtype=dtype)
    )


each_layout = pytest.mark.parametrize("layout", ["rows", "columns", "gaps"])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@each_layout
@each_dtype
def test_one_product(layout, dtype):
    matrix, columns = torch.randn(5, 7, dtype=dtype), laid_out(layout, 7, 40, dtype=dtype)
    wanted, out = (matrix.double() @ columns.double()).to(dtype), torch.empty(5, 50, dtype=dtype)[:, :40]
    assert_close(cpu_products.multiply(matrix, columns), wanted)
    cpu_products.multiply(matrix, columns, out)
    assert_close(out, wanted)
    cpu_products.add_product(matrix, columns, out, scale=0.5)
    assert_close(out, 1.5 * wanted)


@each_layout
def test_a_sum_in_another_dtype(layout):
    matrix, columns = torch.randn(5, 7).bfloat16(), laid_out(layout, 7, 40).bfloat16()
    total = torch.zeros(5, 40)
    cpu_products.add_product(matrix, columns, total, scale=2.0)
    # the product is rounded to the eight bits of bfloat16
    assert_close(total, 2 * matrix.float() @ columns.float(), rtol=2**-8, atol=1e-4)


@each_layout
@each_dtype
def test_many_products(layout, dtype):
    matrices, columns = torch.randn(3, 5, 7, dtype=dtype), laid_out(layout, 3, 7, 6, dtype=dtype)
    wanted = (matrices.double() @ columns.double()).to(dtype)
    out, plus = torch.empty(3, 5, 6, dtype=dtype), torch.randn(3, 5, 6, dtype=dtype)
    cpu_products.multiply_each(matrices, columns, out)
    assert_close(out, wanted)
    cpu_products.multiply_each(matrices, columns, out, plus=plus)
    assert_close(out, wanted + plus)


def test_a_line_with_a_bias():
    rows, weight, bias = torch.randn(9, 7), torch.randn(4, 7), torch.randn(4)
    assert_close(cpu_products.linear(rows, weight, bias), rows @ weight.t() + bias)


@pytest.mark.parametrize("shape", [(3, 50), (50, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_transposed_copy_is_exact(shape, dtype):
    matrix = torch.randn(shape).to(dtype)
    found = cpu_products.transposed(matrix)
    assert found.is_contiguous()
    assert torch.equal(found, matrix.t())
