"""A data set of one's own images in a tree of class folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.geometry import PaddedCrop
from capsule_lightning.data import prepared
from capsule_lightning.data.base import ImageDataModule, Normalization
from capsule_lightning.data.image_files import ClassTree, class_tree, fingerprint, read_images, size_of
from capsule_lightning.data.module import Split, split_off
from capsule_lightning.data.prepared import Images
from capsule_lightning.errors import InputError, require


class Decoded(NamedTuple):
    """Images of a split, and where they are kept.

    Attributes:
        images: the images.
        folder: where they are kept.
        made_from: fingerprint of the image files; None if the images are in the folder already.
    """

    images: Images
    folder: Path
    made_from: str | None

    def keep(self) -> None:
        """Write the images into the folder, if that is possible and they are not there already."""
        if self.made_from is not None:
            prepared.save(self.folder, self.images, self.made_from)


class ImageFolderDataModule(ImageDataModule):
    """Images in ``<root>/{train,test}/<class>/*``, or in ``<root>/<class>/*`` with a test set split off.

    Files are decoded once; the result is kept in ``<root>/.prepared`` if that can be written. `ImageDataModule`
    describes the arguments that are not listed.

    Args:
        image_size: rows and columns to scale every image to; null to take the images as they are, all of one size.
        channels: 3 for color, 1 for gray.
        test_size: number or fraction of the images that form the test set if the tree has no ``test`` folder; the
            choice is stratified and the same for every seed.

    Raises:
        InputError: there is no tree at ``root``, a class folder is empty, an image cannot be read, sizes differ, or a
            value is out of range.
    """

    name = "image_folder"
    usual_augmentation = PaddedCrop
    usual_normalization = "channel"

    def __init__(
        self,
        root: str | None = None,
        image_size: tuple[int, int] | None = None,
        channels: int = 3,
        test_size: float | int = 0.2,
        batch_size: int = 128,
        val_size: float | int = 0.1,
        seed: int | None = None,
        augmentation: Callable[[], Augmentation] | None = None,
        normalization: Normalization | None = None,
        images: str | None = None,
    ) -> None:
        super().__init__(root, batch_size, val_size, seed, augmentation, normalization, images=images)
        require(channels in (1, 3), f"channels={channels}: expected 1 (gray) or 3 (color)")
        require(
            image_size is None or min(image_size) >= 1,
            f"image_size={image_size}: expected at least 1 row and 1 column",
        )
        require(self.root.is_dir(), f"{self.root}: no such folder; set --data.root to a folder of class folders")
        self.has_splits = (self.root / "train").is_dir()
        if self.has_splits and not (self.root / "test").is_dir():
            raise InputError(f"{self.root / 'test'}: no such folder; expected it beside {self.root / 'train'}")
        if not self.has_splits and (
            not test_size > 0 or (isinstance(test_size, float) and test_size >= 1 and not test_size.is_integer())
        ):
            raise InputError(f"test_size={test_size}: expected a fraction below 1 or a number of images")
        tree = class_tree(self.root / "train" if self.has_splits else self.root)
        if len(tree.class_names) < 2:
            raise InputError(f"{self.root}: only the class folder {tree.class_names[0]}; expected two classes or more")
        if self.has_splits:
            class_tree(self.root / "test", tree.class_names)
        self.class_names = tree.class_names
        self.resize, self.test_size = image_size is not None, test_size
        self.stored_shape = (channels, *(image_size or size_of(tree.paths[0])))

    def prepare_data(self) -> None:
        """Decode the files once, all of them before any are kept; called by one process of each machine."""
        for found in [self._read(split) for split in ("train", "test")]:
            found.keep()

    @override
    def load(self, split: Split) -> Images:
        found = self._read(split)
        found.keep()
        return found.images

    def _read(self, split: Split) -> Decoded:
        top = self.root / split if self.has_splits else self.root
        tree = class_tree(top, self.class_names)
        if not self.has_splits:
            train, test = split_off(torch.tensor(tree.labels), self.test_size, seed=0, option="test_size")
            chosen = (train if split == "train" else test).tolist()
            if not chosen:
                raise InputError(
                    f"test_size={self.test_size}: leaves no image to test on of the {len(tree.paths)} in {top}; set "
                    f"--data.test_size to at least {len(self.class_names)}, or add images"
                )
            tree = ClassTree([tree.paths[i] for i in chosen], [tree.labels[i] for i in chosen], tree.class_names)
        made_from = fingerprint(tree.paths, top)
        folder = self.root / ".prepared" / "x".join(map(str, self.stored_shape)) / split
        found = prepared.load(folder, made_from)
        if found is not None:
            return Decoded(found, folder, None)
        images = read_images(tree.paths, self.stored_shape, resize=self.resize)
        return Decoded(Images(images, torch.tensor(tree.labels)), folder, made_from)
