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
        dtype = torch.promote_types(poses.dtype, torch.float32)
        return cls(poses, torch.linalg.vector_norm(poses, dim=-1, dtype=dtype))
