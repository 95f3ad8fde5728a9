"""The pair of tensors that travels between all stages of a capsule network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Capsules(NamedTuple):
    """A layer of capsules.

    Attributes:
        poses: ``(..., I, D)``, the instantiation parameters of ``I`` capsules of ``D`` dimensions.
        activations: ``(..., I)`` in [0, 1], how sure the layer is that the entity of each capsule is present.
    """

    poses: Tensor
    activations: Tensor

    @classmethod
    def from_vectors(cls, poses: Tensor) -> Capsules:
        """Return vector capsules, whose activation is the length of the pose (Sabour et al. 2017, section 2).

        The length is computed in float32 or wider and has gradient zero at the zero vector.

        Example:
            >>> Capsules.from_vectors(torch.tensor([[0.6, 0.8], [0.0, 0.0]])).activations
            tensor([1., 0.])
        """
        return cls(poses, lengths_of(poses.to(torch.promote_types(poses.dtype, torch.float32))))


def lengths_of(vectors: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
    """Return the length of each vector along ``dim``; its gradient is zero at the zero vector.

    It is `torch.linalg.vector_norm`, which on a CPU is many times slower if the numbers of a vector do not lie side by
    side; then it is the root of a sum of squares.

    Args:
        vectors: ``(..., D, ...)``.
        dim: axis of the dimensions, ``D``.
        keepdim: keep that axis, with one entry.

    Example:
        >>> lengths_of(torch.tensor([[3.0, 0.0], [4.0, 0.0]]), dim=0)
        tensor([5., 0.])
    """
    if vectors.device.type != "cpu" or torch.compiler.is_compiling() or vectors.stride(dim) == 1:
        lengths: Tensor = torch.linalg.vector_norm(vectors, dim=dim, keepdim=keepdim)
        return lengths
    squares = vectors.square().sum(dim=dim, keepdim=keepdim)
    some = squares != 0
    return torch.where(some, torch.where(some, squares, 1).sqrt(), 0)
