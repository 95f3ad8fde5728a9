"""Batches whose truth is more than a class: masks, boxes, joints, or all that is known about a scene.

A task takes any batch that has the fields it needs, so that one data module can feed several tasks. The first field of
each is the network's input.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from capsule_lightning.data.shares import Share

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


class HasLabels(Protocol):
    """A batch for classification, such as an `ImageBatch` or a `TextBatch`; its first field is the network's input.

    If the network has a decoder, there are ``pictures`` to reconstruct, too.
    """

    @property
    def labels(self) -> Tensor:
        """Class numbers ``(B)``, or ``(B, L)`` of several labels an example."""

    @property
    def indices(self) -> Tensor:
        """Positions in the stored set."""

    @property
    def shares(self) -> tuple[Share, ...]:
        """What examples count as in the loss; empty if each counts once, by its labels."""

    def __getitem__(self, place: Literal[0], /) -> Tensor:
        """Return the first field."""


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


class TranslationBatch(NamedTuple):
    """Pairs of sentences as ids of a vocabulary, `PAD` behind those that are shorter than the longest.

    Attributes:
        source: ``(B, S)`` int64, ends with `END`.
        target: ``(B, T)`` int64, from `BEGIN` to `END`.
        indices: ``(B)`` int64, positions in the stored set.
    """

    source: Tensor
    target: Tensor
    indices: Tensor
