"""Data sets of the literature, which are looked for in four places."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data import prepared
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.decoded_trees import MET, decode_tree
from capsule_lightning.data.facts import read_facts
from capsule_lightning.data.image_trees import class_tree, find_images, fingerprint
from capsule_lightning.data.module import Split
from capsule_lightning.data.prepared import Images
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.errors import InputError, require

ArrayLike = Tensor | np.ndarray | Sequence[int]


class NamedDataModule(ImageDataModule):
    """A data set that is known by its name.

    Its images are taken from the first of four places that has them: the prepared files in
    ``<root>/prepared/<name>/{train,test}``, which ``prepare`` writes, or the first use of a tree of class folders; the
    original files, where torchvision keeps them under ``root``; a tree of class folders,
    ``<root>/<name>/{train,test}/<class>/*``; a download.

    A subclass states its name, shapes and classes, and implements `read_original`.
    """

    columns: ClassVar[int | None] = None
    """Numbers that the prepared files have for an image in place of a label; None for a label."""

    @abstractmethod
    def read_original(self, split: Split, download: bool) -> tuple[ArrayLike, ArrayLike]:
        """Read the original files under ``root``.

        Args:
            split: which images.
            download: whether to fetch the files first.

        Returns:
            Images ``(N, H, W)`` or ``(N, H, W, C)`` uint8 and labels ``(N)``.

        Raises:
            RuntimeError, OSError: the files are not there; torchvision raises the first.
        """

    def prepare_data(self) -> None:
        """Download the files, or decode a tree of class folders once; called by one process of each machine."""
        measures = self.normalization == "channel" and self.statistics is None
        predicts_files = self.predict_path is not None and self.trainer is not None and self.trainer.predicting
        if self.fake or (predicts_files and not measures):
            return
        for split in ("train", "test"):
            self._find(split, self.download)

    @override
    def load(self, split: Split) -> Images:
        return self._find(split, download=False)

    def write_prepared(self) -> Path:
        """Store the decoded images for memory-mapped use.

        Returns:
            The folder that they are in.

        Raises:
            InputError: the folder cannot be written.
        """
        self.prepare_data()
        for split in ("train", "test"):
            require(
                self._keep(split),
                f"{self._prepared(split)}: cannot be written; choose another --data.root",
            )
        return self._prepared("train").parent

    def _keep(self, split: Split) -> bool:
        """Write a split into its prepared place, if it is what the data set states."""
        images, labels = self.load(split)
        self.require_usable(split, images, labels, self.stored_shape)
        met = {MET: self.met[split]._asdict()} if split in self.met else None
        return prepared.save(self._prepared(split), Images(images, labels), self._tree_fingerprint(split), met)

    def _prepared(self, split: Split) -> Path:
        return self.root / "prepared" / self.name / split

    def _tree(self, split: Split) -> Path:
        return self.root / self.name / split

    def _tree_fingerprint(self, split: Split) -> str | None:
        folder = self._tree(split)
        if kind_of(folder) != "folder":
            return None
        return fingerprint(find_images(folder).images, folder, self.reading.mark)

    def _find(self, split: Split, download: bool) -> Images:
        found = self._find_prepared(split)
        if found is not None:
            return found
        try:
            return as_images(*self.read_original(split, download=False))
        except Exception as error:  # RuntimeError if there are none, anything if they are cut short
            original = _reason(error)
            torn = not isinstance(error, InputError) and "not found" not in original
        if kind_of(self._tree(split)) == "folder":
            return self._read_tree(split)
        failure = "comes with prepare_data" if self.download else "is off: set --data.download true"
        cause: Exception | None = None
        if download:
            try:
                return as_images(*self.read_original(split, download=True))
            except Exception as error:  # as above, and whatever a connection fails with
                failure, cause = f"failed: {_reason(error)}", error
        raise InputError(
            f"the {split} images of {self.name} were not found. Looked for 1. a prepared file {self._prepared(split)}; "
            f"2. the original files {self.root.absolute()}: "
            f"{f'cut short or damaged ({original}), remove them' if torn else original}; "
            f"3. class folders {self._tree(split)}/<class>/*; 4. a download {failure}. "
            "Set --data.root or CAPSULE_LIGHTNING_DATA to where the data are, or train on the embedded digits: "
            "--config digits.yaml"
        ) from cause

    def _find_prepared(self, split: Split) -> Images | None:
        """Return the prepared set, unless it is not what would be made of the class folders as they are now."""
        made_from = self._tree_fingerprint(split)
        found = prepared.load(self._prepared(split), made_from, self.columns)
        if found is not None and made_from is not None:
            facts = read_facts((prepared.source(self._prepared(split)) or {}).get(MET))
            if facts is not None and facts.damaged and not self.reading.skip_damaged:
                return None
            if facts is not None:
                self.met[split] = facts
        return found

    def _read_tree(self, split: Split) -> Images:
        top = self._tree(split)
        tree = class_tree(top, self.class_names, skip_odd=self.reading.skip_damaged)
        found = decode_tree(tree, top, self._prepared(split), self.stored_shape, False, self.reading)
        found._replace(made_from=self._tree_fingerprint(split)).keep()
        self.met[split] = found.facts
        return found.images


def as_images(images: ArrayLike, labels: ArrayLike) -> Images:
    """Return images as ``(N, C, H, W)`` and labels as int64.

    Args:
        images: ``(N, H, W)`` or ``(N, H, W, C)`` uint8, as torchvision keeps them.
        labels: ``(N)``.
    """
    pixels = torch.as_tensor(images)
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.movedim(-1, 1).contiguous()
    return Images(pixels, torch.as_tensor(labels, dtype=torch.int64))


def _reason(error: Exception) -> str:
    """Return the first sentence of an error, which torchvision breaks into lines, or the error's type."""
    return " ".join(str(error).split()).split(". ")[0] or type(error).__name__
