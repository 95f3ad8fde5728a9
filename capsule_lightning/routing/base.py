"""The contracts of routing algorithms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import isqrt
from typing import Literal, get_args

from torch import Tensor, nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.votes import matrix_vote, vote, vote_weight

Pose = Literal["auto", "matrix", "vector"]
Competition = Callable[[Tensor], Tensor]


class Routing(nn.Module, ABC):
    """Sends ``num_in`` child capsules to ``num_out`` parent capsules.

    An algorithm owns its vote transformation, so that it may fuse votes and routing. Its first four constructor
    arguments are these shapes, in this order; hyperparameters follow, keyword-only. Leading dimensions are free.

    Args:
        num_in: number of child capsules, ``I``.
        dim_in: dimensions of a child's pose, ``D``.
        num_out: number of parent capsules, ``J``.
        dim_out: dimensions of a parent's pose, ``E``.
        vote_weights: vote matrices that a parent has, K, where children share them: child i uses matrix i modulo K, so
            that the capsules of K types that stand one after the other at each position share theirs over positions,
            and 1 is one matrix for all (Gu & Tresp 2020, arXiv 1911.07968). Null for one for each child.

    Attributes:
        vote_weights: K; ``num_in`` where nothing is shared.
        backend: how `forward` is computed; ``torch``, the plain functions, unless the class offers a choice.

    Raises:
        InputError: a size below 1; ``vote_weights`` that do not divide ``num_in``.
    """

    backend: str = "torch"

    def __init__(
        self, num_in: int, dim_in: int, num_out: int, dim_out: int, *, vote_weights: int | None = None
    ) -> None:
        super().__init__()
        name = type(self).__name__
        sizes = {"num_in": num_in, "dim_in": dim_in, "num_out": num_out, "dim_out": dim_out}
        for argument, size in sizes.items():
            if size < 1:
                raise InputError(f"{name}: {argument}={size}: expected at least 1")
        if vote_weights is not None and (vote_weights < 1 or num_in % vote_weights):
            raise InputError(
                f"{name}: vote_weights={vote_weights}: expected a number that divides the {num_in} children, "
                "such as 1, or null for a matrix for each"
            )
        self.num_in, self.dim_in, self.num_out, self.dim_out = num_in, dim_in, num_out, dim_out
        self.vote_weights = num_in if vote_weights is None else vote_weights

    @abstractmethod
    def forward(self, capsules: Capsules) -> Capsules:
        """Route ``poses (..., I, D), activations (..., I)`` to ``poses (..., J, E), activations (..., J)``."""

    @abstractmethod
    def couplings(self, capsules: Capsules) -> Tensor:
        """The coupling coefficients ``(..., I, J)`` of the last iteration, recomputed for whoever wants to look."""

    def has_matrices(self, pose: Pose) -> bool:
        """Whether votes are products of two matrices, for algorithms that leave the choice.

        Args:
            pose: ``matrix``, which needs ``dim_in = dim_out = n * n``; ``vector``, a matrix times a vector; ``auto``,
                ``matrix`` where it can be.

        Raises:
            InputError: an unknown ``pose``; ``matrix`` with dimensions that are not the same square number.
        """
        name, square = type(self).__name__, self.dim_in == self.dim_out == isqrt(self.dim_in) ** 2
        self.require_one_of("pose", pose, get_args(Pose))
        if pose == "matrix" and not square:
            raise InputError(
                f"{name}: pose: matrix with children of {self.dim_in} and parents of {self.dim_out} dimensions: "
                "expected the same square number, such as 16; or choose pose: vector"
            )
        return square and pose != "vector"

    def require_one_of(self, argument: str, word: str, known: tuple[str, ...]) -> None:
        """Refuse a ``word`` for an argument of the constructor that is not a known one."""
        if word not in known:
            raise InputError(f"{type(self).__name__}: {argument}={word!r}: expected one of {', '.join(known)}")

    def extra_repr(self) -> str:
        """Shapes for the model summary."""
        return f"{self.num_in} x {self.dim_in}D -> {self.num_out} x {self.dim_out}D"


class MatrixRouting(Routing):
    """What the routings of matrix capsules share: their votes, coordinates, and competition across positions.

    A convolutional layer puts two things into place: ``compete``, because in these algorithms a child's parents at
    *all* positions compete for it, and ``offsets``, the coordinates that are added to the votes.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`.
        pose: see `has_matrices`.
        std: of the normal distribution that the vote weights are drawn from, which is cut at two deviations.

    Attributes:
        compete: logits ``(..., I, J)`` to coupling coefficients of that shape.
        offsets: ``(..., I, E)``, added to the votes of each child for every parent; None for nothing.

    Raises:
        InputError: an unknown ``pose``; ``matrix`` with dimensions that are not the same square number.
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
        """Votes ``(..., I, J, E)`` of children ``(..., I, D)``, coordinates added."""
        votes = matrix_vote(poses, self.weight) if self.matrix else vote(poses, self.weight)
        return votes if self.offsets is None else votes + self.offsets.unsqueeze(-2)
