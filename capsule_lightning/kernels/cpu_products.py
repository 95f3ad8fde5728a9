"""Products of large matrices on the CPU, by the library that is faster.

In float32 torch multiplies with MKL, which leaves the AVX-512 units of AMD's processors unused: there oneDNN, with
which torch convolves, takes half the time for the same sums. torch has no public name for a product by oneDNN in
float32, so `_linear` calls the operator that its compiler uses. What does not suit it is multiplied as ever.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``rows (m, k)`` times the transposed ``weight (n, k)``, plus ``bias (n)``, all of one dtype."""
    return _linear(rows, weight, bias) if _suits(weight) else F.linear(rows, weight, bias)


def multiply(matrix: Tensor, columns: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the product of ``matrix (m, k)`` and ``columns (k, n)``, in ``out (m, n)`` if that is given."""
    if not _suits(columns):
        return torch.mm(matrix, columns, out=out)
    product = _linear(matrix, columns.t())
    return product if out is None else out.copy_(product)


def add_product(matrix: Tensor, columns: Tensor, total: Tensor, scale: float = 1.0) -> None:
    """Add the scaled product of ``matrix (m, k)`` and ``columns (k, n)`` to ``total (m, n)``, of any dtype."""
    if _suits(columns):
        total.add_(_linear(matrix, columns.t()), alpha=scale)
    elif columns.dtype == total.dtype:
        total.addmm_(matrix, columns, alpha=scale)
    else:
        total.add_(matrix @ columns, alpha=scale)


def multiply_each(matrices: Tensor, columns: Tensor, out: Tensor, plus: Tensor | None = None) -> None:
    """Set ``out (f, m, n)`` to products of ``matrices (f, m, k)`` and ``columns (f, k, n)``, plus another tensor."""
    if _suits(columns[0]):
        products = map(_linear, matrices.unbind(), columns.mT.unbind())
        for number, (product, target) in enumerate(zip(products, out.unbind(), strict=True)):
            if plus is None:
                target.copy_(product)
            else:
                torch.add(plus[number], product, out=target)
    elif plus is None:
        torch.bmm(matrices, columns, out=out)
    else:
        torch.baddbmm(plus, matrices, columns, out=out)


def transposed(matrix: Tensor) -> Tensor:
    """Return a contiguous copy of a transposed matrix of finite numbers.

    In bfloat16 it is a product with the identity, which is exact: oneDNN takes a third of the time of a copy.
    """
    if matrix.dtype != torch.bfloat16:
        return matrix.t().clone(memory_format=torch.contiguous_format)
    rows, columns = matrix.shape
    if rows < columns:
        return matrix.t() @ torch.eye(rows, dtype=matrix.dtype)
    return torch.eye(columns, dtype=matrix.dtype) @ matrix.t()


def _suits(columns: Tensor) -> bool:
    if torch.compiler.is_compiling() or columns.dtype != torch.float32 or columns.device.type != "cpu":
        return False
    # with gaps between rows oneDNN would take thousands of times as long
    return (columns.is_contiguous() or columns.t().is_contiguous()) and _has_fast_linear()


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


@cache
def _has_fast_linear() -> bool:
    return (
        bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and torch.cpu._is_avx512_supported()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
