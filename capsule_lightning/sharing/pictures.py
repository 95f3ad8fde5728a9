"""Image files that a trained network is asked about, wherever its training data are."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.array_pictures import ARRAYS
from capsule_lightning.data.base import ImageDataModule, Normalization
from capsule_lightning.data.fitting import Fit
from capsule_lightning.data.image_trees import class_folders, find_images
from capsule_lightning.data.label_tables import TABLES, files_in, read_table
from capsule_lightning.data.loader import Store
from capsule_lightning.data.module import Split
from capsule_lightning.data.pictures import MOST_PIXELS, UnreadableImageError
from capsule_lightning.data.to_predict import array_to_predict, files_to_predict, unknown
from capsule_lightning.errors import InputError, require
from capsule_lightning.runs.folders import expanded


class Pictures(NamedTuple):
    """Image files that were found.

    Attributes:
        paths: the N files.
        labels: class number of each; -1 if it is not known.
        odd: what has the name of an image, and is not a file.
    """

    paths: list[Path]
    labels: list[int]
    odd: list[UnreadableImageError]


class PicturesDataModule(ImageDataModule):
    """Image files for ``predict``; shapes, classes and normalization are those of the network, which states them.

    Args:
        images: image files, folders of them, or patterns such as ``photos/*.png``; a CSV or Parquet table with a column
            ``path`` and, if they are known, ``label``; or one ``.npy``, ``.npz``, ``.mat`` or HDF5 file of images. The
            labels of a folder of class folders, each with the name of a class, are those of the folders; others are not
            known.
        class_names: names of the network's classes.
        shape: ``(C, H, W)`` to which every image is scaled.
        batch_size: images at a time.
        augmentation: whose evaluation brings images to the shape of the network's input.
        normalization: of the network's input.
        mean, deviation: of each channel of the training images, for the normalization ``channel``.
        background, invert, max_pixels, skip_damaged, fit: see `ImageDataModule`.
        value_range: the values of files and arrays that become 0 and 1; null if the network was trained on bytes.
        num_labels: labels of an image; 0 if the network names any number of classes, and then none are known.
        root, download: not needed; accepted because they say where data are.
    """

    name = "pictures"

    def __init__(
        self,
        class_names: list[str],
        shape: tuple[int, int, int],
        images: list[str] | str | None = None,
        batch_size: int = 128,
        augmentation: Callable[[], Augmentation] | None = None,
        normalization: Normalization | None = None,
        mean: list[float] | None = None,
        deviation: list[float] | None = None,
        root: str | None = None,
        download: bool = False,
        background: str = "white",
        invert: bool = False,
        max_pixels: int = MOST_PIXELS,
        skip_damaged: bool = False,
        fit: Fit = "squeeze",
        value_range: tuple[float, float] | None = None,
        num_labels: int = 1,
    ) -> None:
        self.num_labels = num_labels
        self.class_names, self.stored_shape = list(class_names), (shape[0], shape[1], shape[2])
        super().__init__(
            root,
            batch_size,
            0,
            0,
            augmentation,
            normalization,
            download,
            background=background,
            invert=invert,
            max_pixels=max_pixels,
            skip_damaged=skip_damaged,
            fit=fit,
        )
        self.keep_values(value_range)
        if mean is not None and deviation is not None:
            self.statistics = mean, deviation
        self.paths = [images] if isinstance(images, str) else list(images or ())

    @override
    def setup(self, stage: str | None = None) -> None:
        """Find the files and read them.

        Raises:
            InputError: another stage than ``predict``; no images, or one that cannot be read.
        """
        require(stage == "predict" and self.paths, f"{self.name}: are for predict --data.images, and nothing else")
        if len(self.paths) == 1 and Path(self.paths[0]).suffix in ARRAYS:
            path = expanded(self.paths[0], "--data.images")
            self.stores["predict"] = self.taken(array_to_predict(path, self.stored_shape, self.reading))
            return
        found = find_pictures(self.paths, self.class_names)
        labels = torch.tensor(found.labels) if self.num_labels == 1 else unknown(len(found.paths))
        read = files_to_predict(found.paths, labels, found.odd, Path(), self.stored_shape, self.reading)
        self.stores["predict"] = self.taken(read)

    @override
    def open(self, split: Split) -> Store:
        raise InputError(f"{self.name}: have no {split} images; choose other data with --data")

    load = open  # type: ignore[assignment]


def find_pictures(given: Sequence[str], class_names: Sequence[str]) -> Pictures:
    """Find image files.

    Args:
        given: files, folders and patterns.
        class_names: names of the classes, which class folders may have.

    Raises:
        InputError: one of them leads to no image.
    """
    found: dict[Path, int] = {}
    odd: list[UnreadableImageError] = []
    for word in given:
        require(word.strip(), f"data.images={word!r}: expected an image file, or a folder of them")
        places = [expanded(word, "--data.images")]
        if not places[0].exists() and glob.has_magic(word):
            places = sorted(map(Path, glob.glob(str(places[0]), recursive=True)))
        require(
            places and all(place.exists() for place in places),
            f"data.images={word}: no such file or folder; expected image files, folders of them, or a pattern such as "
            "'photos/*.png'",
        )
        here: list[tuple[Path, int]] = []
        for place in places:
            images, others = pictures_in(place, class_names)
            here, odd = here + images, odd + others
        require(here or odd, f"data.images={word}: no images in this folder; expected png, jpeg, webp, ...")
        for path, label in here:
            found[path] = max(label, found.get(path, -1))
    return Pictures([*found], [*found.values()], odd)


def pictures_in(place: Path, class_names: Sequence[str]) -> tuple[list[tuple[Path, int]], list[UnreadableImageError]]:
    """Return the image files at a place, each with its label, -1 if it is not known; and what only looks like one."""
    if place.suffix.lower() in TABLES and not place.is_dir():
        table = read_table(place)
        names = table.column("label", "label_column") if "label" in table.columns else [""] * len(table.rows)
        known = {name: number for number, name in enumerate(class_names)}
        return [(path, known.get(name, -1)) for path, name in zip(files_in(table), names, strict=True)], []
    if not place.is_dir():
        return [(place, -1)], []
    paths, _, odd = find_images(place)
    folders = set(class_folders(place))
    if folders and folders <= set(class_names) and all(path.parent != place for path in paths):
        numbers = {name: number for number, name in enumerate(class_names)}
        return [(path, numbers[path.relative_to(place).parts[0]]) for path in paths], odd
    return [(path, -1) for path in paths], odd
