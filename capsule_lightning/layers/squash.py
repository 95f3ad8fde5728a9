"""Squash functions, which shrink a vector to a length in [0, 1) and keep its direction."""

from __future__ import annotations

import torch
from torch import Tensor

from capsule_lightning.capsules import lengths_of
from capsule_lightning.layers.precision import full_precision


@full_precision
def squash(s: Tensor, dim: int = -1, offset: float = 1.0) -> Tensor:
    """Squash each vector along ``dim``: ``v = |s|^2 / (1 + |s|^2) * s / |s|``.

    It is computed as ``s * |s| / (1 + |s|^2)``, the same number without a division by zero: a zero vector stays zero
    and has gradient zero, which is also the limit of the formula.

    Args:
        s: ``(..., D, ...)``, vectors shorter than the square root of the largest number, 1e19 in float32.
        dim: axis of the capsule dimensions, ``D``.
        offset: what stands in place of the 1 in the denominator, above 0: the square of the length that gives 1/2.

    Returns:
        Tensor of the shape of ``s``, float32 or wider, of length in [0, 1] along ``dim``.

    Source: Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, 2017, Eq. 1 (arXiv 1710.09829); an ``offset`` of
    0.5 is that of Zhao et al. 2018 (arXiv 1804.00538).

    Example:
        >>> squash(torch.tensor([3.0, 4.0]))
        tensor([0.5769, 0.7692])
    """
    length = lengths_of(s, dim, keepdim=True)
    return s * (length / (offset + length.square()))


def squash_gradient(s: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient of ``s (..., D)`` from that of ``squash(s)``, for backward passes written by hand.

    With ``g(n) = n / (1 + n^2)`` and ``n = |s|`` it is ``g(n) grad + g'(n) / n (s . grad) s``, which is zero for ``s``
    zero.
    """
    length = lengths_of(s, keepdim=True)
    scale = 1 + length.square()
    direction = s / length.clamp_min(torch.finfo(s.dtype).tiny)
    along = (direction * grad).sum(dim=-1, keepdim=True) * direction
    return (length * grad + length * (1 - length.square()) / scale * along) / scale


@full_precision
def exponential_squash(s: Tensor, dim: int = -1) -> Tensor:
    """Squash with slope 1 at zero, so that short vectors keep their gradient: ``v = (1 - exp(-|s|)) * s / |s|``.

    Args:
        s: ``(..., D, ...)``.
        dim: axis of the capsule dimensions, ``D``.

    Returns:
        Tensor of the shape of ``s``, float32 or wider, of length in [0, 1] along ``dim``.

    Source: Mazzia, Salvetti & Chiaberge, Efficient-CapsNet, 2021, Eq. 3 (arXiv 2101.12491); its first form is that of
    Xi, Bing & Jin, Capsule Network Performance on Complex Data, 2017 (arXiv 1712.03480).

    Example:
        >>> exponential_squash(torch.tensor([3.0, 4.0]))
        tensor([0.5960, 0.7946])
    """
    length = lengths_of(s, dim, keepdim=True)
    length = length.clamp_min(torch.finfo(s.dtype).tiny)  # so the ratio below is 1 for a zero vector, its limit
    return s * (-torch.expm1(-length) / length)
