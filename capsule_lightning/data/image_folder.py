"""A data set of one's own images in a tree of class folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.geometry import PaddedCrop
from capsule_lightning.data.base import ImageDataModule, Normalization
from capsule_lightning.data.decoded_trees import DecodedTree, decode_tree
from capsule_lightning.data.image_files import size_of, unreadable
from capsule_lightning.data.image_trees import ClassTree, Walked, class_tree, joined
from capsule_lightning.data.module import Split
from capsule_lightning.data.pictures import MOST_PIXELS, UnreadableImageError
from capsule_lightning.data.prepared import Images
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.data.split_folders import find_splits
from capsule_lightning.data.split_record import SplitRecord, changes, file_keys
from capsule_lightning.data.statistics import channel_statistics, digests
from capsule_lightning.data.stratified import split_off
from capsule_lightning.errors import InputError, require, some_of

SPLITS: tuple[Split, ...] = ("train", "test")


class ImageFolderDataModule(ImageDataModule):
    """Images in ``<root>/{train,test}/<class>/*``, or in ``<root>/<class>/*`` with a test set split off.

    The folders of the splits may have any of their usual names, such as ``Training``, ``valid`` and ``Testing``. Images
    of a validation folder are validated on, whatever number ``val_size`` is above 0; without such a folder ``val_size``
    images are held out of the training set. Links to files and folders are followed.

    Files are decoded once; the result is kept in ``<root>/.prepared`` if that can be written. `ImageDataModule`
    describes the arguments that are not listed.

    Args:
        image_size: rows and columns to scale every image to; null to take the images as they are, all of one size.
        channels: 3 for color, 1 for gray.
        test_size: number or fraction of the images that form the test set if the tree has no ``test`` folder; the
            choice is stratified and the same for every seed.
        split_folders: whether the folders of ``root`` are splits, and not classes; null to judge by their names and by
            what they hold.

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
        split_folders: bool | None = None,
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
    ) -> None:
        super().__init__(
            root,
            batch_size,
            val_size,
            seed,
            augmentation,
            normalization,
            images=images,
            background=background,
            invert=invert,
            max_pixels=max_pixels,
            skip_damaged=skip_damaged,
            balanced=balanced,
        )
        require(channels in (1, 3), f"channels={channels}: expected 1 (gray) or 3 (color)")
        require(
            image_size is None or (min(image_size) >= 1 and image_size[0] * image_size[1] <= max_pixels),
            f"image_size={image_size}: expected at least 1 row and 1 column, and at most {max_pixels:,} pixels "
            "(--data.max_pixels)",
        )
        require(
            kind_of(self.root) == "folder", f"{self.root}: no such folder; set --data.root to a folder of class folders"
        )
        self.folders = find_splits(self.root, split_folders)
        self.test_size, self.resize, self._nested = test_size, image_size is not None, split_folders is False
        require(
            self.folders.test is not None
            or (test_size > 0 and (not isinstance(test_size, float) or test_size < 1 or test_size.is_integer())),
            f"test_size={test_size}: expected a fraction below 1 or a number of images",
        )
        tree = self._tree(self.folders.train, None, {})
        self.class_names = tree.class_names
        if len(tree.class_names) < 2:
            raise InputError(f"{self.root}: only the class folder {tree.class_names[0]}; expected two classes or more")
        self._require_enough(tree)
        for folder in (self.folders.val, self.folders.test):
            if folder is not None:
                self._tree(folder, self.class_names, {})
        self.stored_shape = (channels, *(image_size or self._first_size(tree)))
        self._files: dict[str, list[PurePath]] = {}  # of each split that has been read, in the order of its images
        self._recorded: dict[Split, list[int]] = {}  # keys of the files of each split, if they are those of a run

    def prepare_data(self) -> None:
        """Decode the files once, all of them before any are kept; called by one process of each machine."""
        for found in [self._read(split) for split in ("train", "test")]:
            found.keep()

    @override
    def load(self, split: Split) -> Images:
        found = self._read(split)
        found.keep()
        self._files[split], self.met[split] = found.files, found.facts
        return found.images

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Hold out the images of the validation folder, or else ``val_size`` images."""
        if self.folders.val is None or self.val_size == 0:
            return super().hold_out(labels)
        top = self.folders.val.relative_to(self.root)
        held_out = torch.tensor([file.is_relative_to(top) for file in self._files["train"]])
        return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]

    @property
    @override
    def title(self) -> str:
        return str(self.root)

    @override
    def files_of(self, split: str) -> list[PurePath] | None:
        return self._files.get(split)

    @override
    def origin_of(self, part: str) -> str:
        if part == "val" and self.folders.val is not None:
            return f" ({self.folders.val.name})"
        split_off = part == "test" and self.folders.test is None
        return f" (--data.test_size {self.test_size})" if split_off else super().origin_of(part)

    @override
    def describe(self) -> str:
        if len(self._train):
            self.store("test")
        note = f"\n  {self.folders.note} (--data.split_folders)" if self.folders.note else ""
        return super().describe() + note

    # The split belongs to the run, see `DataModule`.

    @override
    def record_split(self) -> SplitRecord:
        """Return the split by the names of the files and what is to be seen in them."""
        files: dict[str, Tensor] = {split: self._table(split) for split in SPLITS}
        return super().record_split()._replace(val=files["train"][self._val, 0], files=files)

    @override
    def restore_split(self, record: SplitRecord) -> None:
        """Keep each image in the split that it has in the run, and say what has changed since.

        Images that are new are left out. A test folder is taken as it is, unless training goes on.

        Raises:
            InputError: none of the images that the run was trained on is here, and training should go on.
        """
        splits: list[Split] = [split for split in SPLITS if split == "test" or len(self._train)]
        if set(record.files) != set(SPLITS) or not (len(self._train) or "test" in self.stores):
            return
        then = torch.cat([record.files[split] for split in SPLITS])
        same, other, gone, new = changes(then, torch.cat([self._table(split) for split in splits]))
        if same == 0:
            require(
                not self.is_trained_on,
                f"{self.root}: holds none of the {len(then):,} images that this run began with; give their folder with "
                "--data.root, or begin a new run",
            )
            return
        changed = bool("train" in splits and (other or gone or new))
        if changed:
            rank_zero_info(
                f"{self.root} has changed since this run began: {gone:,} images are gone, {other:,} are others of the "
                f"same name, {new:,} are new. Each stays in the split that it was in, and new ones are left out"
            )
        if self.folders.test is not None and not self.is_trained_on:
            splits.remove("test")
            self._tell_of_test_folder(record)
        self._recorded = {split: record.files[split][:, 0].tolist() for split in splits}
        for split in splits:
            if set(self._recorded[split]) != set(self._table(split)[:, 0].tolist()):
                before, self.stores[split] = len(self.stores[split]), self.open(split)
                if not changed:
                    rank_zero_info(
                        f"the {len(self.stores[split]):,} images to {split} on are those of the run, and not the "
                        f"{before:,} that {self.root} would now give"
                    )
                if split == "train" and "statistics" in vars(self):
                    self.statistics = channel_statistics(self.stores[split])
        if len(self._train):
            self.take_over(record, self._table("train")[:, 0], changed)

    def _tell_of_test_folder(self, record: SplitRecord) -> None:
        """Say what has changed in the test folder, and which of its images have been trained on."""
        _, other, gone, new = changes(record.files["test"], self._table("test"))
        if other or gone or new:
            rank_zero_info(
                f"{self.folders.test} has changed since this run began, and is taken as it is: {gone:,} images are "
                f"gone, {other:,} are others of the same name, {new:,} are new"
            )
        trained = torch.isin(self._table("test")[:, 1], record.files["train"][:, 1])
        names = [str(self._files["test"][n]) for n in trained.nonzero()[:, 0].tolist()]
        if names:
            rank_zero_info(f"{len(names):,} images to test on are, pixel for pixel, ones of training: {some_of(names)}")

    def _table(self, split: Split) -> Tensor:
        """Return key and digest ``(N, 2)`` int64 of each image of a split."""
        store = self.store(split)
        return torch.stack([file_keys(self._files[split]), digests(store)], dim=1)

    # The files.

    def _tree(self, folder: Path, names: Sequence[str] | None, walked: Walked) -> ClassTree:
        skip = self.reading.skip_damaged
        return class_tree(folder, names, nested=self._nested or names is not None, skip_odd=skip, walked=walked)

    def _first_size(self, tree: ClassTree) -> tuple[int, int]:
        """Return the size of the first image that can be read."""
        faults: list[UnreadableImageError] = []
        for path in tree.paths:
            try:
                return size_of(path, self.reading)
            except UnreadableImageError as error:
                faults.append(error)
                if not self.reading.skip_damaged:
                    break
        raise unreadable(faults)

    def _require_enough(self, tree: ClassTree) -> None:
        """Refuse classes that have too few images to be in every split."""
        splits = ["train"]
        splits += ["validate"] if self.folders.val is None and self.val_size != 0 else []
        splits += ["test"] if self.folders.test is None else []
        counts = Counter(tree.labels)
        few = [label for label in sorted(counts) if counts[label] < len(splits)]
        if few:
            counted = some_of([f"{tree.class_names[label]} has {counts[label]}" for label in few])
            raise InputError(
                f"{self.folders.train}: too few images in a class ({counted}); expected at least {len(splits)}, to "
                f"{', '.join(splits)}; add images, or remove the class"
            )

    def _read(self, split: Split) -> DecodedTree:
        folder = self.root / ".prepared" / "x".join(map(str, self.stored_shape)) / split
        return decode_tree(self._listed(split), self.root, folder, self.stored_shape, self.resize, self.reading)

    def _listed(self, split: Split) -> ClassTree:
        """Return the files of a split: those of the run that goes on, or else those that the folders say."""
        walked: Walked = {}
        recorded, own_test = self._recorded.get(split), self.folders.test if split == "test" else None
        tree = self._tree(own_test or self.folders.train, self.class_names, walked)
        if self.folders.test is None and recorded is None:
            tree = self._part(split, tree)
        if split == "train" and self.folders.val is not None and self.val_size != 0:
            tree = joined(tree, self._tree(self.folders.val, self.class_names, walked))
        if recorded is not None:
            keys = file_keys(path.relative_to(self.root) for path in tree.paths)
            tree = tree.some(torch.isin(keys, torch.tensor(recorded)).nonzero()[:, 0].tolist())
        return tree

    def _part(self, split: Split, tree: ClassTree) -> ClassTree:
        """Return what is left to train on when a test set is split off, or what is split off."""
        labels = torch.tensor(tree.labels)
        train, test = split_off(labels, self.test_size, seed=0, option="test_size", class_names=self.class_names)
        if not len(test):
            raise InputError(
                f"test_size={self.test_size}: leaves no image to test on of the {len(tree.paths)} in "
                f"{self.folders.train}; set --data.test_size to at least {len(self.class_names)}, or add images"
            )
        return tree.some((train if split == "train" else test).tolist())
