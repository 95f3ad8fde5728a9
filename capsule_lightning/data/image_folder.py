"""A folder of images in class folders, such as one's own photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.base import Normalization
from capsule_lightning.data.fitting import Fit
from capsule_lightning.data.image_trees import ClassTree, Walked, class_tree
from capsule_lightning.data.listed_images import ListedImagesDataModule
from capsule_lightning.data.pictures import MOST_PIXELS
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.data.split_folders import Part, find_splits
from capsule_lightning.data.storage import Storage
from capsule_lightning.errors import require


class ImageFolderDataModule(ListedImagesDataModule):
    """Images in ``<root>/{train,test}/<class>/*``, or in ``<root>/<class>/*`` with a test set split off.

    The folders of the splits may have any of their usual names, such as ``Training``, ``valid`` and ``Testing``.
    Classes are in alphabetical order, or in that of their numbers if all names are whole numbers; a trained network
    keeps the order that it was trained with. Links to files and folders are followed. `ListedImagesDataModule`
    describes the arguments that are not listed, and `ImageDataModule` those that it does not list.

    Args:
        split_folders: whether the folders of ``root`` are splits, and not classes; null to judge by their names and by
            what they hold.

    Raises:
        InputError: there is no tree at ``root``, a class folder is empty, or what `ListedImagesDataModule` refuses.
    """

    name = "image_folder"

    def __init__(
        self,
        root: str | None = None,
        image_size: tuple[int, int] | None = None,
        channels: int = 3,
        test_size: float | int = 0.2,
        split_folders: bool | None = None,
        folds: int | None = None,
        fold: int = 0,
        batch_size: int = 128,
        val_size: float | int = 0.1,
        seed: int | None = None,
        augmentation: Callable[[], Augmentation] | None = None,
        normalization: Normalization | None = None,
        images: str | None = None,
        background: str = "white",
        invert: bool = False,
        max_pixels: int = MOST_PIXELS,
        skip_damaged: bool = False,
        balanced: bool = False,
        fit: Fit = "squeeze",
        value_range: tuple[float, float] | None = None,
        storage: Storage | None = None,
    ) -> None:
        super().__init__(
            root,
            image_size,
            channels,
            test_size,
            folds,
            fold,
            batch_size,
            val_size,
            seed,
            augmentation,
            normalization,
            images,
            background,
            invert,
            max_pixels,
            skip_damaged,
            balanced,
            fit,
            value_range,
            storage,
        )
        require(
            kind_of(self.root) == "folder", f"{self.root}: no such folder; set --data.root to a folder of class folders"
        )
        self.folders, self._nested = find_splits(self.root, split_folders), split_folders is False
        parts: dict[Part, Path | None] = {"val": self.folders.val, "test": self.folders.test}
        self.own_parts = {part: folder.name for part, folder in parts.items() if folder is not None}
        self.take_stock()

    @override
    def listed(self, part: Part, walked: Walked) -> ClassTree:
        folder = getattr(self.folders, part)
        names = getattr(self, "class_names", None)  # not known before the images to train on have been listed
        return class_tree(
            folder,
            names,
            nested=self._nested or names is not None,
            skip_odd=self.reading.skip_damaged,
            walked=walked,
        )

    @override
    def keep_classes(self, names: Sequence[str] | None) -> None:
        super().keep_classes(sorted(self.class_names) if names is None else names)  # how it was before it was stated

    @property
    @override
    def training_title(self) -> str:
        return str(self.folders.train)

    @override
    def describe(self) -> str:
        note = f"\n  {self.folders.note} (--data.split_folders)" if self.folders.note else ""
        return super().describe() + note
