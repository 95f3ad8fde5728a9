"""Batches whose truth is more than a class: masks, boxes, joints, or all that is known about a scene.

A task takes any batch that has the fields it needs, so that one data module can feed several tasks. The first field of
each is the network's input.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

IGNORE = -1
"""What a mask holds where a pixel does not count."""
ABSENT = -1
"""Label of an object that is not there, in a batch whose images have different numbers of objects."""


class HasMasks(Protocol):
    """A batch for segmentation; see `MaskBatch` for its fields."""

    @property
    def images(self) -> Tensor: ...  # noqa: D102
    @property
    def pictures(self) -> Tensor: ...  # noqa: D102
    @property
    def masks(self) -> Tensor: ...  # noqa: D102
    @property
    def indices(self) -> Tensor: ...  # noqa: D102


class HasBoxes(Protocol):
    """A batch for detection; see `BoxBatch` for its fields."""

    @property
    def images(self) -> Tensor: ...  # noqa: D102
    @property
    def pictures(self) -> Tensor: ...  # noqa: D102
    @property
    def boxes(self) -> Tensor: ...  # noqa: D102
    @property
    def labels(self) -> Tensor: ...  # noqa: D102
    @property
    def crowd(self) -> Tensor: ...  # noqa: D102
    @property
    def indices(self) -> Tensor: ...  # noqa: D102


class HasJoints(Protocol):
    """A batch for pose estimation; see `JointBatch` for its fields."""

    @property
    def images(self) -> Tensor: ...  # noqa: D102
    @property
    def pictures(self) -> Tensor: ...  # noqa: D102
    @property
    def joints(self) -> Tensor: ...  # noqa: D102
    @property
    def visible(self) -> Tensor: ...  # noqa: D102
    @property
    def indices(self) -> Tensor: ...  # noqa: D102


class MaskBatch(NamedTuple):
    """Images and the class of each of their pixels.

    Attributes:
        images: ``(B, C, H, W)`` float32, the input of the network.
        pictures: ``(B, C, H, W)`` float32 in [0, 1], the same images as a person sees them.
        masks: ``(B, H, W)`` int64: 0 is the background unless the data say otherwise, 1 to J the classes of
            ``class_names``, which does not name the background, and `IGNORE` what does not count.
        indices: ``(B)`` int64, positions in the stored set.
    """

    images: Tensor
    pictures: Tensor
    masks: Tensor
    indices: Tensor


class BoxBatch(NamedTuple):
    """Images and the boxes of their objects; images with fewer than N objects have absent ones.

    Attributes:
        images: ``(B, C, H, W)`` float32, the input of the network.
        pictures: ``(B, C, H, W)`` float32 in [0, 1], the same images as a person sees them.
        boxes: ``(B, N, 4)`` float32, left, top, right and bottom edge in pixels of ``images``; 0 if absent.
        labels: ``(B, N)`` int64 in [0, J), `ABSENT` if there is no Nth object.
        crowd: ``(B, N)`` bool: the box is around a group that nobody has told apart, in which nothing counts as wrong.
        indices: ``(B)`` int64, positions in the stored set.
    """

    images: Tensor
    pictures: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    indices: Tensor


class JointBatch(NamedTuple):
    """Images and the joints of the body in each.

    Attributes:
        images: ``(B, C, H, W)`` float32, the input of the network.
        pictures: ``(B, C, H, W)`` float32 in [0, 1], the same images as a person sees them.
        joints: ``(B, K, D)`` float32: D is 2, in pixels of ``images``, or 3, in meters.
        visible: ``(B, K)`` bool, whether a joint is known.
        indices: ``(B)`` int64, positions in the stored set.
        depth: ``(B, 1, H, W)`` float32, distance from the camera; None if it is not known.
    """

    images: Tensor
    pictures: Tensor
    joints: Tensor
    visible: Tensor
    indices: Tensor
    depth: Tensor | None = None


class SceneBatch(NamedTuple):
    """Scenes of which all is known: a batch for segmentation and for detection.

    Attributes:
        images, pictures, masks, boxes, labels, crowd, indices: see `MaskBatch` and `BoxBatch`.
        poses: ``(B, N, 5)`` float32 of each object: column and row of its center in pixels, its size in pixels before
            it was turned, its angle in radians, clockwise as seen, and its depth in (0, 1), 0 nearest; 0 if absent.
    """

    images: Tensor
    pictures: Tensor
    masks: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    poses: Tensor
    indices: Tensor
