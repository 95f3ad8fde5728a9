"""The splits of a data set in the format of Hugging Face's library ``datasets``, none of whose code is run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from capsule_lightning.data.array_labels import Labels
from capsule_lightning.data.parted_images import SPLITS, SplitPart
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.data.split_folders import USUAL
from capsule_lightning.errors import InputError, first_line, require, some_of

if TYPE_CHECKING:
    import datasets

SAVED = ("dataset_dict.json", "dataset_info.json")
"""What a folder holds that ``save_to_disk`` has written: of several splits, or of one."""

UNLABELED = -1
"""What the library writes for a label that is not known."""


class Found(NamedTuple):
    """The splits of a data set.

    Attributes:
        parts: by ``train``, ``val`` and ``test``; their images are a `datasets.Dataset` of the column of images alone.
        class_names: names of the classes, if the data set has them.
        others: names of splits that are none of the usual ones, or have no labels.
    """

    parts: Mapping[str, SplitPart]
    class_names: Sequence[str] | None
    others: Sequence[str]


def read_dataset(path: str, subset: str | None, revision: str | None) -> Mapping[str, datasets.Dataset]:
    """Return the splits of a data set by their names.

    Args:
        path: a folder that ``save_to_disk`` has written, or one with Parquet files; else a name on the hub.
        subset, revision: which of those that go by that name on the hub.

    Raises:
        InputError: ``datasets`` is not installed, or it cannot read them.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f'{path}: needs the library datasets; install it: pip install "capsule_lightning[huggingface]"'
        ) from error
    folder = Path(os.path.expanduser(path))
    try:
        if kind_of(folder) != "folder":
            found = datasets.load_dataset(path, subset, revision=revision)
        elif any(kind_of(folder / name) == "file" for name in SAVED):
            found = datasets.load_from_disk(str(folder))
        else:
            found = {split: datasets.Dataset.from_parquet(files) for split, files in parquet_files(folder).items()}
    except InputError:
        raise
    except Exception as error:  # the library raises anything: for what is not there, or damaged, or no network
        raise InputError(
            f"{path}: cannot be read as a data set ({first_line(error)[:200]}); expected a folder that save_to_disk "
            "has written, a folder of Parquet files, or a name on the hub; see --data.path"
        ) from error
    return {"train": found} if isinstance(found, datasets.Dataset) else dict(found)


def parquet_files(folder: Path) -> dict[str, list[str]]:
    """Return the Parquet files below a folder by the split that each is called as, such as ``train-00000-of-00002``.

    Raises:
        InputError: there are none.
    """
    files: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        files.setdefault(file.stem.partition("-")[0], []).append(str(file))
    require(
        files,
        f"{folder}: holds neither what save_to_disk writes nor Parquet files; expected a data set of Hugging Face's "
        "library datasets",
    )
    return files


def find_parts(found: Mapping[str, datasets.Dataset], path: str, image_column: str, label_column: str) -> Found:
    """Return the images and labels of the splits that have usual names.

    Args:
        found: a data set's splits.
        path: of the data set, for messages.
        image_column, label_column: names of the columns.

    Raises:
        InputError: there is no split to train on, or a column is missing or holds something else.
    """
    import datasets

    part_of = {word: part for part, usual in USUAL.items() for word in usual}
    named = {part_of[name.lower()]: name for name in reversed([*found]) if name.lower() in part_of}
    require("train" in named, f"{path}: expected a split train; there are {some_of([*found])}")
    parts: dict[str, SplitPart] = {}
    for part in [part for part in SPLITS if part in named]:
        rows, title = found[named[part]], f"{path}, {named[part]}"
        for option, column in (("image_column", image_column), ("label_column", label_column)):
            require(
                column in rows.column_names,
                f"{title}: no column {column}; there are {some_of(rows.column_names)}; set --data.{option}",
            )
        require(len(rows), f"{title}: is empty; expected images")
        feature = rows.features[image_column]
        require(
            isinstance(feature, datasets.Image),
            f"{title}: {image_column} holds {feature}; expected images; set --data.image_column",
        )
        labels = _labels_of(rows, label_column, title)
        if part != "train" and (labels.values == UNLABELED).all():
            del named[part]  # as the test sets of competitions
            continue
        images = rows.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
        parts[part] = SplitPart(images, torch.arange(len(rows)), labels, named[part])
    kind = found[named["train"]].features[label_column]
    names = kind.names if isinstance(kind, datasets.ClassLabel) else None
    return Found(parts, names, [name for name in found if name not in named.values()])


def _labels_of(rows: datasets.Dataset, column: str, title: str) -> Labels:
    """Return the labels of a split.

    Raises:
        InputError: they are neither whole numbers nor words.
    """
    import datasets

    labels = rows.select_columns([column])[:][column]
    require(
        all(isinstance(label, str) for label in labels) or all(type(label) is int for label in labels),
        f"{title}: {column} holds {rows.features[column]}; expected a whole number or a word for each image; set "
        "--data.label_column",
    )
    values, kind = np.array(labels), rows.features[column]
    unknown = isinstance(kind, datasets.ClassLabel) and (values == UNLABELED).any() and (values != UNLABELED).any()
    require(not unknown, f"{title}: has images without a label; expected one for each; leave those images out")
    return Labels(title, values, None)
