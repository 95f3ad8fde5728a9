"""Image files that a table names, with the label of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.data.base import Normalization
from capsule_lightning.data.fitting import Fit
from capsule_lightning.data.image_trees import ClassTree, Walked, in_order
from capsule_lightning.data.label_tables import Table, read_table
from capsule_lightning.data.listed_images import ListedImagesDataModule
from capsule_lightning.data.path_lists import PathList
from capsule_lightning.data.pictures import MOST_PIXELS
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.data.split_folders import USUAL, Part
from capsule_lightning.data.storage import Storage
from capsule_lightning.data.table_labels import read_row_labels, read_row_weights, several_of
from capsule_lightning.errors import InputError, require, some_of


class Listing(NamedTuple):
    """What a table says of the images.

    Attributes:
        paths: the N files.
        labels: names of the classes of each, exactly one unless ``several``.
        parts: the part that each is listed for: ``train``, ``val`` or ``test``.
        groups: the group of each; empty if the table has none.
        note: which columns say so.
        own_parts: see `ListedImagesDataModule`.
        several: whether an image may have any number of classes.
        names: of the classes, if the table itself names them; else empty.
        weights: how much each counts in the loss; empty if the table does not say.
    """

    paths: Sequence[Path]
    labels: Sequence[tuple[str, ...]]
    parts: Sequence[Part]
    groups: Sequence[str]
    note: str
    own_parts: Mapping[Part, str]
    several: bool = False
    names: Sequence[str] = ()
    weights: Sequence[float] = ()


class ImageTableDataModule(ListedImagesDataModule):
    """Images that a CSV, TSV or Parquet file lists in its columns ``path`` and ``label``.

    Columns ``split``, ``group`` and ``weight`` are heeded if they are there. Splits are called by any of their usual
    names, such as ``train``, ``valid`` and ``test``; what no row is listed for is taken from the images to train on.
    Images of one group, such as those of one patient, are all in one split. Classes are in alphabetical order, or in
    that of their numbers if all are whole numbers; images are in the order of their classes and paths, as those of
    class folders are, whatever the order of the rows. The loss of each image to train on is multiplied by its weight, a
    number of 0 or more, whose mean over them counts as 1.

    With ``label_separator`` or ``label_columns`` an image has any number of classes, none included, as `LabelSetTask`
    takes them. They are split so that every class is on all sides (Sechidis et al., 2011). `ListedImagesDataModule`
    describes the arguments that are not listed, and `ImageDataModule` those that it does not list.

    Args:
        table: the file; its first row names the columns.
        root: folder that the paths are relative to, and in which all images lie; null for that of the table.
        path_column: name of the column with the images.
        label_column: name of the column with the classes.
        split_column: name of the column with the splits; null for ``split`` if there is one.
        group_column: name of the column with the groups; null for ``group`` if there is one.
        weight_column: name of the column with the weights; null for ``weight`` if there is one.
        label_separator: what stands between the classes of an image in its cell, such as ``|``; an empty cell then says
            that it has none of them. null for one class an image.
        label_columns: columns that are a class each, in place of ``label_column``, with 1 where an image has it and 0
            elsewhere; null for none.
        several_labels: whether images may have any number of classes; null for yes, unless ``label_columns`` give each
            exactly one.
        skip_unlabeled: leave out rows without a label, an empty cell, instead of refusing all. ``predict`` needs no
            labels, see ``images``.

    Raises:
        InputError: the table or a column is missing, an image is not there or is listed twice, a label is missing or
            not among those to train on, a group is in two splits, a weight is not finite or is negative, all weights
            are 0, or what `ListedImagesDataModule` refuses.
    """

    name = "image_table"

    def __init__(
        self,
        table: str = "labels.csv",
        root: str | None = None,
        path_column: str = "path",
        label_column: str = "label",
        split_column: str | None = None,
        group_column: str | None = None,
        weight_column: str | None = None,
        label_separator: str | None = None,
        label_columns: list[str] | None = None,
        several_labels: bool | None = None,
        skip_unlabeled: bool = False,
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
        self.table = Path(os.path.expanduser(table))
        super().__init__(
            root or str(self.table.parent),
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
        require(label_separator != "", "label_separator='': expected what stands between labels, such as |, or null")
        require(
            label_separator is None or label_columns is None,
            f"label_separator={label_separator}, label_columns={label_columns}: expected one of them",
        )
        self.listing = read_listing(
            read_table(self.table),
            self.root,
            path_column,
            label_column,
            split_column,
            group_column,
            weight_column,
            label_separator,
            label_columns,
            several_labels,
            skip_unlabeled,
        )
        self.own_parts = self.listing.own_parts
        self.take_stock()

    @override
    def listed(self, part: Part, walked: Walked) -> ClassTree:
        listing = self.listing
        chosen = [number for number, each in enumerate(listing.parts) if each == part]
        labels = [listing.labels[number] for number in chosen]
        found = {name for each in labels for name in each}
        kept = getattr(self, "class_names", None)  # not known before the images to train on have been listed
        names = list(kept or listing.names or in_order(found))
        require(names, f"{self.table}: no image to train on has a label; expected two classes or more")
        unknown = sorted(found - set(names))
        require(
            not unknown,
            f"{self.table}: the images of {self.own_parts.get(part)} have labels that none to train on has: "
            f"{some_of(unknown)}; add images of them to train on, or remove those rows",
        )
        number_of = {name: number for number, name in enumerate(names)}
        chosen.sort(key=lambda row: (sorted(number_of[name] for name in listing.labels[row]), listing.paths[row]))
        labels = [listing.labels[number] for number in chosen]
        return ClassTree(
            PathList(listing.paths[number] for number in chosen),
            [0 if listing.several else number_of[each[0]] for each in labels],
            names,
            groups=[listing.groups[number] for number in chosen] if listing.groups else (),
            sets=[tuple(sorted(number_of[name] for name in each)) for each in labels] if listing.several else (),
            weights=[listing.weights[number] for number in chosen] if listing.weights else (),
        )

    @property
    @override
    def title(self) -> str:
        return str(self.table)

    @property
    @override
    def kept_below(self) -> str:
        return f"{self.table.stem} {super().kept_below}"

    @override
    def describe(self) -> str:
        return f"{super().describe()}\n  {self.listing.note}"


def read_listing(
    table: Table,
    root: Path,
    path_column: str,
    label_column: str,
    split_column: str | None = None,
    group_column: str | None = None,
    weight_column: str | None = None,
    label_separator: str | None = None,
    label_columns: Sequence[str] | None = None,
    several_labels: bool | None = None,
    skip_unlabeled: bool = False,
) -> Listing:
    """Read which images a table lists; see `ImageTableDataModule` for the columns.

    Raises:
        InputError: a column, an image or a label is missing; an image is listed twice, or lies outside ``root``; a word
            is not the name of a split; a group is in two splits; a weight is not one.
    """
    weight_column = weight_column or ("weight" if "weight" in table.columns else None)
    said = read_row_labels(table, label_column, label_separator, label_columns)
    unlabeled = len(table.rows) - sum(said.known)
    if skip_unlabeled and unlabeled:
        table, said = table.some(said.known), said.labeled()
        require(table.rows, f"{table.path}: no row has a label; expected images to train on")
    several = several_of(said, several_labels, label_separator)
    split_column = split_column or ("split" if "split" in table.columns else None)
    group_column = group_column or ("group" if "group" in table.columns else None)
    names = table.column(path_column, "path_column")
    require_cells(table, names, path_column)
    if not (all(said.known) or label_separator):
        missing = [line for line, known in zip(table.lines, said.known, strict=True) if not known]
        raise InputError(
            f"{table.path}: {len(missing):,} rows have no label, the first in line {missing[0]}; fill it in, leave "
            "them out with --data.skip_unlabeled true, or let a trained network predict them"
        )
    weights = read_row_weights(table, weight_column) if weight_column else []
    paths = _paths_below(table, names, root)
    words = table.column(split_column, "split_column") if split_column else ["train"] * len(paths)
    parts = parts_of(table, words, split_column or "")
    groups: list[str] = []
    note = f"paths of column {path_column}, {said.note}"
    note += f"; {unlabeled:,} rows without a label are left out" if skip_unlabeled and unlabeled else ""
    note += f", weights of {weight_column}, from {min(weights):g} to {max(weights):g}" if weights else ""
    note += f", splits of {split_column}" if split_column else ""
    if group_column:
        groups = table.column(group_column, "group_column")
        require_cells(table, groups, group_column)
        require_whole_groups(table, groups, parts, group_column)
        note += f", {len(set(groups)):,} groups of {group_column}, each in one split"
    own: dict[Part, str] = {
        part: f"{split_column} {word}" for part, word in zip(parts, words, strict=True) if part != "train"
    }
    require("train" in parts, f"{table.path}: no row of column {split_column} says train; expected images to train on")
    return Listing(paths, said.labels, parts, groups, note, own, several, said.names, weights)


def require_cells(table: Table, cells: Sequence[str], column: str) -> None:
    """Refuse empty cells of a column.

    Raises:
        InputError: there are some; how many, and the line of the first.
    """
    empty = [line for line, cell in zip(table.lines, cells, strict=True) if not cell]
    if empty:
        raise InputError(
            f"{table.path}: {len(empty):,} rows have nothing in column {column}, the first in line {empty[0]}; fill it "
            "in, or remove those rows"
        )


def _paths_below(table: Table, names: Sequence[str], root: Path) -> list[Path]:
    """Return the files, each of which is there, lies in the folder, and is listed once."""
    top = os.path.abspath(root)
    paths = [Path(os.path.normpath(os.path.join(top, name))) for name in names]
    lines = dict(zip(reversed(paths), reversed(table.lines), strict=True))  # of each, the first
    outside = [path for path in lines if not path.is_relative_to(top)]
    if outside:
        raise InputError(
            f"{table.path}: {len(outside):,} images lie outside of {root}, such as {outside[0]}; set --data.root to a "
            "folder that all of them lie in"
        )
    if len(lines) < len(paths):
        twice = next(path for number, path in enumerate(paths) if table.lines[number] != lines[path])
        raise InputError(
            f"{table.path}: {len(paths) - len(lines):,} rows name an image that another row names, such as "
            f"{os.path.relpath(twice, top)}; keep one of them"
        )
    missing = [path for path in paths if kind_of(path) != "file"]
    if missing:
        raise InputError(
            f"{table.path}: {len(missing):,} of {len(paths):,} images are not there, the first "
            f"{os.path.relpath(missing[0], top)} in {root} (line {lines[missing[0]]}); mend the paths, or set "
            "--data.root to the folder that they are relative to"
        )
    return [root / path.relative_to(top) for path in paths]


def parts_of(table: Table, words: Sequence[str], column: str) -> list[Part]:
    """Return the part that each row is listed for, of the words in a column.

    Raises:
        InputError: a word is no usual name of a split.
    """
    part_of: dict[str, Part] = {word: part for part, usual in USUAL.items() for word in usual}
    unknown = [number for number, word in enumerate(words) if word.lower() not in part_of]
    if unknown:
        raise InputError(
            f"{table.path}: line {table.lines[unknown[0]]} says {words[unknown[0]]!r} in column {column}; expected one "
            f"of {', '.join(part_of)}"
        )
    return [part_of[word.lower()] for word in words]


def require_whole_groups(table: Table, groups: Sequence[str], parts: Sequence[Part], column: str) -> None:
    """Refuse groups that the table itself puts into several parts.

    Raises:
        InputError: there are some; they are named.
    """
    seen: dict[str, set[Part]] = {}
    for group, part in zip(groups, parts, strict=True):
        seen.setdefault(group, set()).add(part)
    torn = sorted(group for group, where in seen.items() if len(where) > 1)
    if torn:
        raise InputError(
            f"{table.path}: {len(torn):,} groups of column {column} are in more than one split: {some_of(torn)}; put "
            "each group into one split, or leave the splits to the seed"
        )
