"""The contract of every routing algorithm, and what the routings of matrix capsules share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from math import isqrt
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require, require_one_of
from capsule_lightning.layers.couplings import coupling_coefficients, without_strays
from capsule_lightning.layers.votes import matrix_vote, vote, vote_weight
from capsule_lightning.layers.windows import (
    Windows,
    compete_across_positions,
    compete_within_types,
    coordinate_offsets,
)

Pose = Literal["auto", "matrix", "vector"]
CompetitionScope = Literal["auto", "positions", "window", "type"]

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
        routes_votes: whether the algorithm routes votes that were formed elsewhere, see `from_votes`.
        any_number: whether children that share their matrices may be fewer or more than ``num_in``, as words of a text
            are; otherwise there are ``num_in`` of them, and those that are not there have poses and activations of 0.
        gives_lengths: whether activations are the lengths of the poses.
        of_whole_maps: whether the positions of a map have a say in each other's couplings, so that a layer must not
            route a part of them.

    Raises:
        InputError: a size is below 1, or ``vote_weights`` does not divide ``num_in``.
    """

    backend: str = "torch"
    routes_votes: ClassVar[bool] = False
    any_number: ClassVar[bool] = False
    gives_lengths: ClassVar[bool] = False
    of_whole_maps: bool = False

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

    def couplings_by_pass(self, capsules: Capsules) -> Tensor:
        """Return the coupling coefficients after 1, 2, ... passes of routing, ``(T, ..., I, J)``.

        T is the algorithm's ``iterations``, or 1 if it does not count them.
        """
        iterations = getattr(self, "iterations", None)
        if not isinstance(iterations, int):
            return self.couplings(capsules).unsqueeze(0)
        found = []
        for passes in range(1, iterations + 1):
            shorter = copy(self)  # which has the same weights
            shorter.iterations = passes  # type: ignore[assignment]
            found.append(shorter.couplings(capsules))
        return torch.stack(found)

    def votes(self, poses: Tensor) -> Tensor | None:
        """Return the votes ``(..., I, J, E)`` of children ``(..., I, D)``; None if they are not matrix times pose."""
        weight = getattr(self, "weight", None)
        shape = (self.vote_weights, self.num_out, self.dim_out, self.dim_in)
        return vote(poses, weight) if isinstance(weight, Tensor) and weight.shape == shape else None

    def from_votes(self, votes: Tensor, activations: Tensor) -> Capsules:
        """Route votes that were not formed here, such as those of a convolution; for algorithms that ``routes_votes``.

        Args:
            votes: ``(..., I, J, E)``.
            activations: ``(..., I)``, of the children.

        Returns:
            ``poses (..., J, E), activations (..., J)``, which `forward` returns if the votes are those of `votes`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not route votes that were formed elsewhere")

    def in_windows(
        self, windows: Windows, *, competition: CompetitionScope = "auto", coordinates: bool | None = None
    ) -> None:
        """Route in the windows of a map from now on, each with the capsules of A types at p places as children.

        Args:
            windows: the windows of the layer.
            competition: the parents among which a child divides itself, see `ConvCapsules`; ``auto`` for what the
                algorithm's paper does.
            coordinates: whether to add to the votes where in the map a child lies; None for what the paper does.

        Raises:
            InputError: the algorithm does not have what is asked for.
        """
        unsupported = "coordinates=true" if coordinates else f"competition={competition}"
        require(
            not coordinates and competition in ("auto", "window"),
            f"{unsupported} with {type(self).__name__}: only the routings of matrix capsules (EM, variational Bayes) "
            "add coordinates to votes and compete across positions; leave the option out",
        )

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

    In the windows of a map, see `in_windows`, the parents at *all* positions compete for a child, and coordinates are
    added to the votes.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`.
        pose: see `has_matrices`.
        std: standard deviation of the normal distribution that the vote weights are drawn from, truncated at two
            standard deviations.

    Attributes:
        windows: the windows whose parents compete for a child; None if only the J parents compete.
        within_types: in those windows each type of parents competes by itself, see `compete_within_types`.
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
        self.windows: Windows | None = None
        self.within_types = False
        self.register_buffer("offsets", None, persistent=False)

    @override
    def in_windows(
        self, windows: Windows, *, competition: CompetitionScope = "auto", coordinates: bool | None = None
    ) -> None:
        if competition != "window" and windows.out_size != (1, 1):
            self.windows, self.within_types = windows, competition == "type"
        if coordinates is not False:
            self.offsets = coordinate_offsets(windows, self.num_in // windows.places, self.dim_out)

    def compete(self, logits: Tensor, log_floor: float | None = None) -> Tensor:
        """Return the coupling coefficients that logits ``(..., I, J)`` give.

        Args:
            logits: logarithms of densities, up to a constant.
            log_floor: see `without_strays`; None for no floor.
        """
        if self.windows is not None and self.within_types:
            return compete_within_types(logits, self.windows)
        if self.windows is not None:
            return compete_across_positions(logits, self.windows, log_floor)
        couplings = coupling_coefficients(logits)
        return couplings if log_floor is None else without_strays(couplings, logits.logsumexp(dim=-1), log_floor)

    @override
    def votes(self, poses: Tensor) -> Tensor:
        """Return the votes ``(..., I, J, E)`` of children ``(..., I, D)``, coordinates included."""
        votes = matrix_vote(poses, self.weight) if self.matrix else vote(poses, self.weight)
        return votes if self.offsets is None else votes + self.offsets.unsqueeze(-2)
