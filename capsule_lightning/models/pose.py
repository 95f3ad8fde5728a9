"""The contract of every network with one capsule for each joint of a body."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError, require
from capsule_lightning.models.base import CapsuleNet, evaluated

Dims = Literal[2, 3]


class Places(NamedTuple):
    """What a network reads from its joint capsules.

    Attributes:
        joints: ``(B, K, D)`` in pixels of the image (D = 2) or meters from the root joint (D = 3).
        positions: ``(B, K, 3)`` meters, of a network that says both; otherwise None.
        depth: ``(B, 1, H, W)`` or ``(B, C, H, W)`` in [0, 1], a reconstruction of the depth map; None of a network
            without it.
    """

    joints: Tensor
    positions: Tensor | None = None
    depth: Tensor | None = None


class PoseNet(CapsuleNet):
    """A network that turns an image into one capsule for each of K joints.

    It is built with ``(in_shape, num_classes)``: its classes are the joints.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: joints, K.
        dims: coordinates of a joint, D: 2 for pixels, 3 for meters from the root joint.

    Raises:
        InputError: ``dims`` is neither 2 nor 3; what `CapsuleNet` refuses.
    """

    reads_both: bool = False
    """Whether the network says ``positions`` beside joints in pixels."""
    reads_depth: bool = False
    """Whether the network reconstructs the depth map."""

    def __init__(self, in_shape: tuple[int, ...], num_classes: int, dims: Dims) -> None:
        super().__init__(in_shape, num_classes)
        require(dims in get_args(Dims), f"{type(self).__name__}: dims={dims}: expected 2 (pixels) or 3 (meters)")
        self.dims = dims

    @abstractmethod
    def read(self, capsules: Capsules) -> Places:
        """Return what the joint capsules ``poses (B, K, E), activations (B, K)`` say."""

    @override
    @torch.no_grad()
    def predict(self, images: Any, batch_size: int = 256) -> Places:  # type: ignore[override]
        """Return where the joints of images are, on the CPU; arguments as for `CapsuleNet.predict`."""
        inputs = images if self.reader is None else self.reader(images)
        found = [self.read(capsules) for capsules in evaluated(self, inputs, batch_size)]
        joints, positions, depth = (_joined(parts) for parts in zip(*found, strict=True))
        assert joints is not None
        return Places(joints, positions, depth)

    def orthogonality(self) -> Tensor:
        """Return how far the vote matrices of the joints are from orthogonal, a scalar.

        Raises:
            InputError: the network does not say.
        """
        raise InputError(
            f"{type(self).__name__}: says nothing of the orthogonality of its vote matrices; set "
            "--model.orthogonality_weight 0, or --model.net DECANet"
        )

    def in_units(self, coordinates: Tensor) -> Tensor:
        """Return what a linear map has read ``(B, K, D)`` in the units of the joints.

        Pixels are counted from the center of the image, in units of its longer side; meters are taken as they are.
        """
        return in_pixels(coordinates, self.in_shape) if self.dims == 2 else coordinates


def in_pixels(coordinates: Tensor, in_shape: Sequence[int]) -> Tensor:
    """Return coordinates ``(..., 2)`` from the center of an image, in units of its longer side, in pixels.

    Example:
        >>> import torch
        >>> in_pixels(torch.tensor([0.0, 0.5]), (1, 64, 64))
        tensor([32., 64.])
    """
    rows, columns = in_shape[-2:]
    center = coordinates.new_tensor([columns / 2, rows / 2])
    return center + max(rows, columns) * coordinates


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Return the parts of a batch as one, on the CPU; None if the network does not say this."""
    there = [part for part in parts if part is not None]
    return torch.cat(there).cpu() if there else None
