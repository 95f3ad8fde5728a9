"""What data sets of image files share, whatever lists the files: decoding, splits, and what a run remembers of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePath
from typing import get_args

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.geometry import PaddedCrop
from capsule_lightning.data.base import ImageDataModule, Normalization
from capsule_lightning.data.decoded_trees import DecodedTree, decode_tree
from capsule_lightning.data.deep_pictures import require_range, scaled_images
from capsule_lightning.data.division import Division
from capsule_lightning.data.fitting import Fit
from capsule_lightning.data.image_files import require_size, size_of, unreadable
from capsule_lightning.data.image_trees import ClassTree, Walked, joined
from capsule_lightning.data.label_sets import padded
from capsule_lightning.data.loader import Store
from capsule_lightning.data.module import Split
from capsule_lightning.data.pictures import MOST_PIXELS, UnreadableImageError, is_deep
from capsule_lightning.data.prepared import Images
from capsule_lightning.data.sharded_trees import ShardedTree, shard_tree, stream
from capsule_lightning.data.shards import How
from capsule_lightning.data.split_folders import Part
from capsule_lightning.data.split_record import SplitRecord, changes, file_keys, parted
from capsule_lightning.data.statistics import channel_statistics, digests
from capsule_lightning.data.storage import Plan, Storage, choose, folders_for
from capsule_lightning.data.stratified import split_off
from capsule_lightning.errors import InputError, require, require_one_of, some_of

SPLITS: tuple[Split, ...] = ("train", "test")


class ListedImagesDataModule(ImageDataModule):
    """Image files that folders or a table list, with the class of each.

    Images to validate on that are listed as such are validated on, whatever number ``val_size`` is above 0; without
    them ``val_size`` images are held out of the training set. Images of one group, such as those of one patient, are
    all in the same split.

    Files are decoded once; the result is kept in ``<root>/.prepared`` if that can be written. More images than memory
    holds are read while training goes on (``storage``), in the same order, with the same augmentation and to the same
    bits. `ImageDataModule` describes the arguments that are not listed.

    A subclass implements `listed`, and calls `take_stock` at the end of its constructor.

    Args:
        image_size: rows and columns to scale every image to; null to take the images as they are, all of one size.
        channels: 3 for color, 1 for gray.
        test_size: number or fraction of the images that form the test set if none are listed as such; the choice is
            stratified and the same for every seed.
        folds: number of parts, stratified and the same for every seed, one of which is the test set in place of
            ``test_size`` images; null for none.
        fold: which of the ``folds`` parts to test on, from 0.
        value_range: the values of files of 16 or 32 bits that become 0 and 1; null for the smallest and the largest of
            the training set, if its first image is of that kind. Nothing is cut off: other values are below 0 or
            above 1. Without it, and with a first image of 8 bits, all are read as bytes.
        storage: where the pictures are while a network is trained: ``memory``; ``shards``, files of decoded pictures
            that are made once; ``originals``, decoded each time from their files; null for memory if they take at most
            a quarter of what is free, otherwise shards if these take no more disk than the files and a quarter of what
            is free, otherwise originals.

    Attributes:
        own_parts: what the data call the validation and the test images that they list, by ``val`` and ``test``; parts
            that they do not list are missing.

    Raises:
        InputError: ``root`` is no folder, an image cannot be read, sizes differ, a class has too few images, or a value
            is out of range.
    """

    usual_augmentation = PaddedCrop
    usual_normalization = "channel"

    own_parts: Mapping[Part, str]
    most_labels: int = 1
    """Most labels of an image, if it may have any number."""

    def __init__(
        self,
        root: str | None = None,
        image_size: tuple[int, int] | None = None,
        channels: int = 3,
        test_size: float | int = 0.2,
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
            fit=fit,
        )
        require_size(channels, image_size, max_pixels)
        if storage is not None:
            require_one_of("storage", storage, get_args(Storage))
        self.channels, self.image_size = channels, image_size
        self.division, self.asked_storage = Division(test_size, folds, fold), storage
        if value_range is not None:
            require_range(value_range)
        self.value_range = value_range
        self.is_deep = value_range is not None
        self._files: dict[str, Sequence[PurePath]] = {}  # of each split that has been read, in the order of its images
        self._groups: dict[PurePath, str] = {}  # of the files that have one
        self._sets: dict[PurePath, tuple[int, ...]] = {}  # of the files that may have any number of classes
        self._weights_of: dict[PurePath, float] = {}  # of the files that have one
        self._sharded: dict[Part, ShardedTree] = {}  # the parts that have been looked at
        self._recorded: dict[Split, list[int]] = {}  # keys of the files of each split, if they are those of a run

    @abstractmethod
    def listed(self, part: Part, walked: Walked) -> ClassTree:
        """Return the files of a part: of ``train``, all those that are not listed for another part.

        Args:
            part: ``train``, or a key of ``own_parts``.
            walked: see `class_tree`.
        """

    def take_stock(self) -> None:
        """Learn the classes and the size of the images, and refuse what cannot be split."""
        self.division.require_possible(self.own_parts)
        tree = self.listed("train", {})
        self.class_names = tree.class_names
        if len(tree.class_names) < 2:
            raise InputError(f"{self.title}: only the class {tree.class_names[0]}; expected two classes or more")
        self._require_enough(tree)
        trees = [tree, *(self.listed(part, {}) for part in self.own_parts)]
        if tree.sets:
            self.num_labels = 0
            self.most_labels = max(1, *(len(each) for one in trees for each in one.sets))
            require(
                not self.balanced,
                "balanced=true: images of any number of classes are not drawn by class; set it to false",
            )
        self.division.require_enough(self._labels(tree), self.class_names, tree.groups or None)
        self.stored_shape = (self.channels, *(self.image_size or self._first_size(tree)))
        self.is_deep = self.is_deep or is_deep(tree.paths[0], self.reading)
        self.storage_plan = self._plan(trees)

    def _plan(self, trees: Sequence[ClassTree]) -> Plan:
        """Return where the pictures are; those of more than 8 bits a channel can be in memory alone."""
        count = sum(len(each.paths) for each in trees)
        if self.is_deep:
            require(
                self.asked_storage in (None, "memory"),
                f"storage={self.asked_storage}: images of more than 8 bits a channel are kept in memory; leave "
                "--data.storage out, or give files of 8 bits",
            )
            return Plan("memory", f"{count:,} images of more than 8 bits a channel")
        paths = chain.from_iterable(each.paths for each in trees)
        return choose(self.asked_storage, count, paths, self.stored_shape, self._folders())

    @property
    def _is_streamed(self) -> bool:
        return self.storage_plan.storage != "memory" and not self.is_deep

    def prepare_data(self) -> None:
        """Decode what is needed of the files once, all before any are kept; called by one process of each machine."""
        if self._is_streamed:
            for part in dict.fromkeys(part for split in self._needed for part in self._parts_of(split)):
                self._shard(part)
            return
        for found in [self._read(split) for split in self._needed]:
            found.keep()

    @property
    def _needed(self) -> tuple[Split, ...]:
        """Splits that will be read: a test or a prediction needs those to train on for what only they can tell."""
        trainer, values = self.trainer, self.reading.values or self.value_range
        measures = (self.normalization == "channel" and self.statistics is None) or (self.is_deep and values is None)
        if trainer is None or measures or not (trainer.testing or trainer.predicting):
            return SPLITS
        return ("test",) if trainer.testing or self.predict_path is None else ()

    @override
    def load(self, split: Split) -> Images:
        found = self._read(split)
        found.keep()
        self._files[split], self.met[split] = found.files, found.facts
        images = found.images
        if self.num_labels == 0:
            images = images._replace(labels=padded([self._sets[file] for file in found.files], self.most_labels))
        if not self.is_deep:
            return images
        values = self.reading.values
        if values is None:
            low, high = self.value_range or (found if split == "train" else self._read("train")).facts.span or (0, 1)
            values = low, high if high > low else low + 1
            self.reading = replace(self.reading, values=values)
        return images._replace(images=scaled_images(images.images, values, self.reading.invert))

    @override
    def keep_classes(self, names: Sequence[str] | None) -> None:
        before = list(self.class_names)
        if names is None or list(names) == before or sorted(names) != sorted(before):
            return
        self.class_names = list(names)
        self._sharded = {}
        if not self.stores:
            return
        held_out = file_keys(self._files["train"])[self._val] if len(self._train) else None
        self.reopen()
        if held_out is not None:
            self.use_split(*parted(file_keys(self._files["train"]), held_out))

    @override
    def keep_values(self, values: Sequence[float] | None) -> None:
        before = self.is_deep, self.reading.values
        self.is_deep = values is not None
        self.reading = replace(self.reading, values=None)
        super().keep_values(values)
        if self.stores and before != (self.is_deep, self.reading.values):
            self.reopen()

    @override
    def example_weights(self) -> Tensor | None:
        if not self._weights_of:
            return None
        return torch.tensor([self._weights_of[file] for file in self._files["train"]], dtype=torch.float64)

    @override
    def open(self, split: Split) -> Store:
        if not self._is_streamed:
            return super().open(split)
        parts = [self._shard(part) for part in self._parts_of(split)]
        streamed = stream(self._listed(split), parts, self._how)
        self._files[split], self.met[split] = streamed.files, streamed.facts
        if self.num_labels == 0:
            streamed.store.labels = padded([self._sets[file] for file in streamed.files], self.most_labels)
        return streamed.store

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Hold out the images that are listed to validate on, or else ``val_size`` images."""
        files = self._files["train"]
        if "val" not in self.own_parts or self.val_size == 0:
            groups = [self._groups.get(file, "") for file in files] if self._groups else None
            return split_off(labels, self.val_size, self.seed, class_names=self.class_names, groups=groups)
        listed = self.listed("val", {}).paths.below(self.root)
        held_out = torch.isin(file_keys(files), file_keys(listed.texts()))
        return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]

    @property
    @override
    def title(self) -> str:
        return str(self.root)

    @override
    def files_of(self, split: str) -> Sequence[PurePath] | None:
        return self._files.get(split)

    @override
    def origin_of(self, part: str) -> str:
        if part == "val" and "val" in self.own_parts:
            return f" ({self.own_parts['val']})"
        if part == "test" and "test" in self.own_parts:
            return ""
        return f" ({self.division})" if part == "test" else super().origin_of(part)

    @override
    def describe(self) -> str:
        if len(self._train):
            self.store("test")
        storage, reason = self.storage_plan
        where = {"memory": "in memory", "shards": "read from shards", "originals": "read from their files"}[storage]
        return f"{super().describe()}\n  {where}: {reason}"

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
        if "test" in self.own_parts and not self.is_trained_on:
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
                f"{self.own_parts['test']} has changed since this run began, and is taken as it is: {gone:,} images "
                f"are gone, {other:,} are others of the same name, {new:,} are new"
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
        splits += ["validate"] if "val" not in self.own_parts and self.val_size != 0 else []
        splits += ["test"] if "test" not in self.own_parts else []
        counts = tree.counts()
        few = [label for label in range(len(tree.class_names)) if counts[label] < len(splits)]
        if few:
            counted = some_of([f"{tree.class_names[label]} has {counts[label]}" for label in few])
            raise InputError(
                f"{self.training_title}: too few images in a class ({counted}); expected at least {len(splits)}, to "
                f"{', '.join(splits)}; add images, or remove the class"
            )

    @property
    def training_title(self) -> str:
        """What the images that are not listed for another part are called."""
        return self.title

    @property
    def kept_below(self) -> str:
        """Name of the folder of ``<root>/.prepared`` in which decoded images are kept."""
        return "x".join(map(str, self.stored_shape))

    def _folders(self) -> list[Path]:
        """Return where shards may be, of this way of reading alone: two runs that read otherwise take none away."""
        return folders_for(self.root, self.kept_below, f"{self.reading.mark} {self.image_size is None}")

    @property
    def _how(self) -> How:
        shape, resize = self.stored_shape, self.image_size is not None
        return How(shape, resize, self.reading, self.root, with_pixels=self.storage_plan.storage == "shards")

    def _parts_of(self, split: Split) -> list[Part]:
        """Return the parts whose files a split is of."""
        if split == "test":
            return ["test" if "test" in self.own_parts else "train"]
        return ["train", "val"] if "val" in self.own_parts and self.val_size != 0 else ["train"]

    def _shard(self, part: Part) -> ShardedTree:
        """Return a part, all of whose files have been looked at."""
        if part not in self._sharded:
            paths = self.listed(part, {}).paths
            self._sharded[part] = shard_tree(paths, [folder / part for folder in self._folders()], self._how)
        return self._sharded[part]

    def _read(self, split: Split) -> DecodedTree:
        folder = self.root / ".prepared" / self.kept_below / split
        resize = self.image_size is not None
        # values as they are in the files, from which it follows what becomes 0 and 1
        reading = replace(self.reading, raw=True) if self.is_deep else self.reading
        return decode_tree(self._listed(split), self.root, folder, self.stored_shape, resize, reading)

    def _listed(self, split: Split) -> ClassTree:
        """Return the files of a split: those of the run that goes on, or else those that are listed for it."""
        walked: Walked = {}
        recorded = self._recorded.get(split)
        tree = self.listed("test" if split == "test" and "test" in self.own_parts else "train", walked)
        if "test" not in self.own_parts and recorded is None:
            tree = self._part(split, tree)
        if split == "train" and "val" in self.own_parts and self.val_size != 0:
            tree = joined(tree, self.listed("val", walked))
        if recorded is not None:
            keys = file_keys(tree.paths.below(self.root).texts())
            tree = tree.some(torch.isin(keys, torch.tensor(recorded)).nonzero()[:, 0].tolist())
        names = tree.paths.below(self.root)
        self._groups |= zip(names, tree.groups, strict=False)  # all images of a tree have one, or none has
        self._sets |= zip(names, tree.sets, strict=False)
        self._weights_of |= zip(names, tree.weights, strict=False)
        return tree

    def _labels(self, tree: ClassTree) -> Tensor:
        """Return the labels ``(N)`` of a tree, or ``(N, L)`` if its images are of any number of classes."""
        return padded(tree.sets, self.most_labels) if tree.sets else torch.tensor(tree.labels)

    def _part(self, split: Split, tree: ClassTree) -> ClassTree:
        """Return what is left to train on when a test set is split off, or what is split off."""
        train, test = self.division.off(self._labels(tree), self.training_title, self.class_names, tree.groups or None)
        return tree.some((train if split == "train" else test).tolist())
