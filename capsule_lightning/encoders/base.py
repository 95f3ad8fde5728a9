"""The contract of every encoder, and of those whose capsules lie on a map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules


class CapsuleMap(NamedTuple):
    """The positions of capsules in the image.

    Attributes:
        types: number of capsules at each place.
        rows: rows of the map.
        columns: columns of the map.
        by_type: whether the capsules are ordered by type, row, column; otherwise by row, column, type.
        extent: left, right, bottom and top edge of the map in pixels of the image; None for the whole image.
    """

    types: int
    rows: int
    columns: int
    by_type: bool = False
    extent: tuple[float, float, float, float] | None = None


class Encoder(nn.Module, ABC):
    """An encoder, which turns images into primary capsules.

    It is built with ``in_shape``, the shape ``(C, H, W)`` of one image, and states the sizes of its output.

    Attributes:
        in_shape: shape of an image that it was built for.
        num_capsules: number of primary capsules, ``I``.
        dim: dimensions of their poses, ``D``.
        starts_from: arguments that say where its initial weights are from, which a trained one is built without.
    """

    starts_from: ClassVar[tuple[str, ...]] = ()
    in_shape: tuple[int, ...]
    num_capsules: int
    dim: int

    @abstractmethod
    def forward(self, images: Tensor) -> Capsules:
        """Return ``poses (B, I, D), activations (B, I)`` of images ``(B, C, H, W)``."""

    def rate_factors(self) -> Mapping[nn.Parameter, float]:
        """Return by what the learning rate of some parameters is multiplied; 1 for all others."""
        return {}

    def capsule_map(self) -> CapsuleMap | None:
        """Return where the primary capsules lie, from which reports draw what each place votes for; None if nowhere."""
        return None


class MapEncoder(Encoder):
    """An encoder whose capsules lie on a map, so that capsule layers can convolve them.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        size: rows and columns of the map.
        num_types: capsules at each position, A.
        dim: dimensions of their poses, D.
    """

    size: tuple[int, int]
    num_types: int

    def __init__(self, in_shape: tuple[int, ...], size: tuple[int, int], num_types: int, dim: int) -> None:
        super().__init__()
        self.in_shape, self.size, self.num_types, self.dim = in_shape, size, num_types, dim
        self.num_capsules = size[0] * size[1] * num_types

    @abstractmethod
    def maps(self, images: Tensor) -> Capsules:
        """Return ``poses (B, rows, columns, A, D), activations (B, rows, columns, A)`` of images ``(B, C, H, W)``."""

    @override
    def forward(self, images: Tensor) -> Capsules:
        """Return the capsules of `maps`, ordered by row, column, type."""
        poses, activations = self.maps(images)
        return Capsules(poses.flatten(1, 3), activations.flatten(1, 3))

    @override
    def capsule_map(self) -> CapsuleMap:
        return CapsuleMap(self.num_types, *self.size)


class FeatureEncoder(MapEncoder):
    """An encoder that makes capsules of features, on which a head without capsules can be trained as well.

    Attributes:
        channels: features at each place of the map, F.
    """

    channels: int

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return features ``(B, F, rows, columns)`` of images ``(B, C, H, W)``."""

    @abstractmethod
    def capsules_of(self, features: Tensor) -> Capsules:
        """Return the capsules of features ``(B, F, rows, columns)``, in the form of `maps`."""

    @abstractmethod
    def without_capsules(self) -> None:
        """Drop what makes capsules of the features, in a network that has none; `features` is all that is left."""

    @override
    def maps(self, images: Tensor) -> Capsules:
        return self.capsules_of(self.features(images))


def capsules_of_maps(maps: Tensor, dim: int) -> Tensor:
    """Group neighboring channels into vectors.

    Args:
        maps: ``(B, types * dim, H, W)``.
        dim: dimensions of a capsule, D.

    Returns:
        ``(B, types * H * W, D)``, ordered by type, row, column.
    """
    poses = maps.reshape(len(maps), -1, dim, *maps.shape[-2:])  # (B, types, D, H, W)
    return poses.movedim(2, -1).flatten(1, 3)
