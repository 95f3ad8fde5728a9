"""Image files that a network for masks, boxes or joints is asked about, wherever its training data are."""

from __future__ import annotations

from typing_extensions import override

from capsule_lightning.data.annotated import AnnotatedDataModule
from capsule_lightning.data.joints import Dims, JointDataModule
from capsule_lightning.data.loader import Store, StoredBatch
from capsule_lightning.data.module import Split
from capsule_lightning.data.pictures import MOST_PIXELS, Reading
from capsule_lightning.data.scenes import unknown_scenes
from capsule_lightning.data.targets import SceneBatch
from capsule_lightning.errors import InputError


class ScenePicturesDataModule(AnnotatedDataModule):
    """Image files for ``predict`` with a network for masks or boxes, which states their classes and their shape.

    Args:
        class_names: names of the network's classes, without the background.
        shape: ``(C, H, W)`` to which every image is scaled.
        images: an image file, a folder of them, or a table that lists them in a column ``path``; or images in a file
            of arrays.
        batch_size: images at a time.
        background, invert, max_pixels: see `ImageDataModule`.
    """

    name = "pictures"

    def __init__(
        self,
        class_names: list[str],
        shape: tuple[int, int, int],
        images: str | None = None,
        batch_size: int = 32,
        background: str = "white",
        invert: bool = False,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        super().__init__(batch_size, 0, 0, images, Reading(background, invert, max_pixels))
        self.class_names, self.shape = list(class_names), (shape[0], shape[1], shape[2])

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | SceneBatch, dataloader_idx: int) -> SceneBatch:
        """Say that nothing is known of the images."""
        return batch if isinstance(batch, SceneBatch) else unknown_scenes(batch)

    @override
    def open(self, split: Split) -> Store:
        raise InputError(f"{self.name}: have no {split} images; choose other data with --data")


class JointPicturesDataModule(JointDataModule):
    """Image files for ``predict`` with a network for joints, which states their names and the shape of images.

    Args:
        class_names: names of the joints.
        shape: ``(C, H, W)`` to which every image is scaled.
        images, batch_size, dims: see `JointDataModule`.
    """

    name = "pictures"

    def __init__(
        self,
        class_names: list[str],
        shape: tuple[int, int, int],
        images: str | None = None,
        batch_size: int = 64,
        dims: Dims = 2,
    ) -> None:
        super().__init__(dims, 0.0, images, batch_size, 0, 0)
        self.class_names, self.shape = list(class_names), (shape[0], shape[1], shape[2])

    @property
    @override
    def in_shape(self) -> tuple[int, int, int]:
        return self.shape

    @property
    @override
    def is_depth(self) -> bool:
        return self.shape[0] == 1

    @override
    def open(self, split: Split) -> Store:
        raise InputError(f"{self.name}: have no {split} images; choose other data with --data")
