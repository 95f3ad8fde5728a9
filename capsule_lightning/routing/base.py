"""The contract of every routing algorithm, and what the routings of matrix capsules share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import isqrt
from typing import Literal, get_args

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require, require_one_of
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.votes import matrix_vote, vote, vote_weight

Pose = Literal["auto", "matrix", "vector"]

Competition = Callable[[Tensor], Tensor]
"""A function from logits ``(..., I, J)`` to coupling coefficients of the same shape."""


class Routing(nn.Module, ABC):
    """A routing algorithm, which sends ``num_in`` child capsules to ``num_out`` parent capsules.

    An algorithm owns its vote transformation, so that it can fuse votes and routing. The first four arguments of its
    constructor are the sizes below, in this order; hyperparameters follow and are keyword-only. The leading dimensions
    of what it is called with are free.

    Args:
        num_in: number of child capsules, ``I``.
        dim_in: dimensions of a child's pose, ``D``.
        num_out: number of parent capsules, ``J``.
        dim_out: dimensions of a parent's pose, ``E``.
        vote_weights: number of vote matrices of each parent, K, if children share them; null if each child has its own.
            Child i uses matrix i modulo K, so that capsules of K types, ordered by position and then by type, share
            theirs over positions; 1 is one matrix for all children (Gu & Tresp 2020, arXiv 1911.07968).

    Attributes:
        vote_weights: K; ``num_in`` if nothing is shared.
        backend: how `forward` is computed; ``torch``, which means the plain functions, unless the class offers a
            choice.

    Raises:
        InputError: a size is below 1, or ``vote_weights`` does not divide ``num_in``.
    """

    backend: str = "torch"

    def __init__(
        self, num_in: int, dim_in: int, num_out: int, dim_out: int, *, vote_weights: int | None = None
    ) -> None:
        super().__init__()
        name = type(self).__name__
        sizes = {"num_in": num_in, "dim_in": dim_in, "num_out": num_out, "dim_out": dim_out}
        for argument, size in sizes.items():
            require(size >= 1, f"{name}: {argument}={size}: expected at least 1")
        require(
            vote_weights is None or (vote_weights >= 1 and num_in % vote_weights == 0),
            f"{name}: vote_weights={vote_weights}: expected a number that divides the {num_in} children, such as 1, or "
            "null for one matrix for each child",
        )
        self.num_in, self.dim_in, self.num_out, self.dim_out = num_in, dim_in, num_out, dim_out
        self.vote_weights = num_in if vote_weights is None else vote_weights

    @abstractmethod
    def forward(self, capsules: Capsules) -> Capsules:
        """Route ``poses (..., I, D), activations (..., I)`` to ``poses (..., J, E), activations (..., J)``."""

    @abstractmethod
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the coupling coefficients ``(..., I, J)`` of the last iteration.

        They are recomputed on request; training never stores them.
        """

    def has_matrices(self, pose: Pose) -> bool:
        """Return whether votes are products of two matrices, for algorithms that offer the choice.

        Args:
            pose: ``matrix``, which needs ``dim_in = dim_out = n * n``; ``vector``, for a matrix times a vector; or
                ``auto``, for ``matrix`` if the dimensions allow it and ``vector`` otherwise.

        Raises:
            InputError: ``pose`` is unknown, or ``matrix`` with dimensions that are not the same square number.
        """
        name, square = type(self).__name__, self.dim_in == self.dim_out == isqrt(self.dim_in) ** 2
        self.require_one_of("pose", pose, get_args(Pose))
        require(
            square or pose != "matrix",
            f"{name}: pose=matrix with children of {self.dim_in} and parents of {self.dim_out} dimensions: expected "
            "the same square number for both, such as 16; or use pose=vector",
        )
        return square and pose != "vector"

    def require_one_of(self, argument: str, word: str, known: tuple[str, ...]) -> None:
        """Raise `InputError` unless ``word``, given for an argument of the constructor, is a known one."""
        require_one_of(f"{type(self).__name__}: {argument}", word, known)

    @override
    def extra_repr(self) -> str:
        return f"{self.num_in} x {self.dim_in}D -> {self.num_out} x {self.dim_out}D"


class MatrixRouting(Routing):
    """A routing of matrix capsules, with their votes, coordinates, and competition across positions.

    A convolutional layer sets two attributes: ``compete``, because in these algorithms the parents at *all* positions
    compete for a child, and ``offsets``, the coordinates that are added to the votes.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`.
        pose: see `has_matrices`.
        std: standard deviation of the normal distribution that the vote weights are drawn from, truncated at two
            standard deviations.

    Attributes:
        compete: turns logits ``(..., I, J)`` into coupling coefficients of the same shape.
        offsets: ``(..., I, E)``, added to the votes of each child for every parent; None to add nothing.

    Raises:
        InputError: ``pose`` is unknown, or ``matrix`` with dimensions that are not the same square number.
    """

    offsets: Tensor | None

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        vote_weights: int | None,
        pose: Pose,
        std: float,
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        self.matrix = self.has_matrices(pose)
        shape = (isqrt(dim_in),) * 2 if self.matrix else (dim_out, dim_in)
        self.weight = vote_weight(self.vote_weights, num_out, *shape, std=std)
        self.compete: Competition = coupling_coefficients
        self.register_buffer("offsets", None, persistent=False)

    def votes(self, poses: Tensor) -> Tensor:
        """Return the votes ``(..., I, J, E)`` of children ``(..., I, D)``, coordinates included."""
        votes = matrix_vote(poses, self.weight) if self.matrix else vote(poses, self.weight)
        return votes if self.offsets is None else votes + self.offsets.unsqueeze(-2)
