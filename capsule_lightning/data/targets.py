"""What tasks beyond class labels receive: batches whose fields a task asks for by their names."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class HasJoints(Protocol):
    """A batch of images of one body each, see `JointBatch`."""

    @property
    def images(self) -> Tensor:
        """Input of the network."""

    @property
    def pictures(self) -> Tensor:
        """The same, not normalized."""

    @property
    def joints(self) -> Tensor:
        """Where the joints are."""

    @property
    def visible(self) -> Tensor:
        """Which of them are seen."""

    @property
    def indices(self) -> Tensor:
        """Positions in the stored set."""


class JointBatch(NamedTuple):
    """Images of one body each, and where its joints are.

    Attributes:
        images: ``(B, C, H, W)`` float32, the input of the network.
        pictures: ``(B, C, H, W)`` float32 in [0, 1], not normalized.
        joints: ``(B, K, D)`` float32. With D = 2 pixels of ``images``, right and down from the upper left corner, so
            that the center of the first pixel is at (0.5, 0.5); with D = 3 meters from the root joint. NaN for a joint
            that is not labeled.
        visible: ``(B, K)`` bool, whether a joint is seen, as opposed to hidden, outside the image or not labeled.
        indices: ``(B)`` int64, positions in the stored set.
        depth: ``(B, 1, H, W)`` float32 in [0, 1], depth without noise: 1 is nearest, 0 is the background; None if it is
            not known.
        positions: ``(B, K, 3)`` float32, meters from the root joint, beside ``joints`` in pixels; None if they are not
            known.
        areas: ``(B)`` float32, pixels that the body covers; None if they are not known.
    """

    images: Tensor
    pictures: Tensor
    joints: Tensor
    visible: Tensor
    indices: Tensor
    depth: Tensor | None = None
    positions: Tensor | None = None
    areas: Tensor | None = None
