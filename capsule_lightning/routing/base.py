"""The contract of every routing algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError


class Routing(nn.Module, ABC):
    """Sends ``num_in`` child capsules to ``num_out`` parent capsules.

    An algorithm owns its vote transformation, so that it may fuse votes and routing. Its first four constructor
    arguments are these shapes, in this order; hyperparameters follow, keyword-only. Leading dimensions are free.

    Args:
        num_in: number of child capsules, ``I``.
        dim_in: dimensions of a child's pose, ``D``.
        num_out: number of parent capsules, ``J``.
        dim_out: dimensions of a parent's pose, ``E``.

    Raises:
        InputError: a size below 1.
    """

    def __init__(self, num_in: int, dim_in: int, num_out: int, dim_out: int) -> None:
        super().__init__()
        sizes = {"num_in": num_in, "dim_in": dim_in, "num_out": num_out, "dim_out": dim_out}
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"{type(self).__name__}: {name}={size}: expected at least 1")
        self.num_in, self.dim_in, self.num_out, self.dim_out = num_in, dim_in, num_out, dim_out

    @abstractmethod
    def forward(self, capsules: Capsules) -> Capsules:
        """Route ``poses (..., I, D), activations (..., I)`` to ``poses (..., J, E), activations (..., J)``."""

    @abstractmethod
    def couplings(self, capsules: Capsules) -> Tensor:
        """The coupling coefficients ``(..., I, J)`` of the last iteration, recomputed for whoever wants to look."""

    def extra_repr(self) -> str:
        """Shapes for the model summary."""
        return f"{self.num_in} x {self.dim_in}D -> {self.num_out} x {self.dim_out}D"
