"""Vectors of numbers as primary capsules, without any convolution."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import FeatureEncoder
from capsule_lightning.errors import require
from capsule_lightning.layers.squash import squash


class VectorEncoder(FeatureEncoder):
    """A linear map of the whole input to primary capsules, and squash: the lengths are the activations.

    It is for vectors, such as a row of a table or features that were computed elsewhere, see `FeatureDataModule`. The
    pixels of an image become one vector. Hidden layers make it an MLP, whose last layer the capsules are made of.

    Args:
        in_shape: ``(C, H, W)`` of one input; ``(D, 1, 1)`` of a vector of D numbers.
        num_types: primary capsules, A.
        dim: dimensions of their poses, D.
        hidden: widths of hidden layers with ReLU before the linear map.

    Raises:
        InputError: a size is below 1.

    Source: Sabour, Frosst & Hinton 2017 (arXiv 1710.09829), section 4, for capsules that are linear maps of features
    and their squash.
    """

    def __init__(
        self, in_shape: tuple[int, ...], *, num_types: int = 16, dim: int = 8, hidden: Sequence[int] = ()
    ) -> None:
        require(
            min(num_types, dim, *hidden) >= 1,
            f"VectorEncoder: num_types={num_types}, dim={dim}, hidden={list(hidden)}: expected at least 1 each",
        )
        super().__init__(in_shape, (1, 1), num_types, dim)
        widths = [prod(in_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for width, following in itertools.pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.channels = widths[-1]
        self.primary: nn.Module = nn.Linear(self.channels, num_types * dim)

    @override
    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features[:, :, None, None]

    @override
    def capsules_of(self, features: Tensor) -> Capsules:
        poses = self.primary(features[:, :, 0, 0]).unflatten(1, (1, 1, self.num_types, self.dim))
        return Capsules.from_vectors(squash(poses))

    @override
    def without_capsules(self) -> None:
        self.primary = nn.Identity()

    @override
    def capsule_map(self) -> None:  # type: ignore[override]  # a vector has no places that a picture could show
        return None
