"""Vectors of numbers with their labels, in a table or in arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.data.image_arrays import find_parts
from capsule_lightning.data.image_table import parts_of, require_cells, require_whole_groups
from capsule_lightning.data.label_tables import TABLES, Table, read_table
from capsule_lightning.data.named_arrays import NamedArrays, StoredArray
from capsule_lightning.data.split_folders import Part
from capsule_lightning.errors import InputError, require, some_of

PAIRS = (("{}_features", "{}_labels"), ("features", "labels"))
"""Names of arrays of features and labels, before those of `capsule_lightning.data.named_arrays.PAIRS`."""
GROUPS = "group"
"""Name of the array with the group of each vector, beside arrays that have all splits in one."""


class Columns(NamedTuple):
    """Names of the columns of a table.

    Attributes:
        label: with the classes.
        split: with the splits; None for ``split`` if there is one.
        group: with the groups; None for ``group`` if there is one.
        numbers: with the numbers; None for all others.
    """

    label: str = "label"
    split: str | None = None
    group: str | None = None
    numbers: Sequence[str] | None = None


class Vectors(NamedTuple):
    """N vectors of D numbers.

    Attributes:
        values: ``(N, D)`` float32, all finite.
        labels: the class of each, as text; empty if they are not asked for.
        parts: the part that each is listed for; empty likewise.
        groups: the group of each; empty if there are none.
        own_parts: what the data call the vectors that they list to validate or to test on, by ``val`` and ``test``.
        note: where all this is from.
    """

    values: Tensor
    labels: Sequence[str]
    parts: Sequence[Part]
    groups: Sequence[str]
    own_parts: dict[Part, str]
    note: str


def read_vectors(path: Path, columns: Columns, names: tuple[str, str] | None = None) -> Vectors:
    """Read vectors with their labels.

    Args:
        path: a CSV, TSV or Parquet file; or an ``.npz`` file or a folder of ``.npy`` files.
        columns: of a table.
        names: of the arrays of features and labels; None for the usual ones.

    Raises:
        InputError: there is no such file, column or array, a cell is no finite number, or what `parts_of`,
            `require_whole_groups` and `find_parts` refuse.
    """
    return _of_table(read_table(path), columns) if path.suffix.lower() in TABLES else _of_arrays(path, names)


def read_unlabeled(path: Path, columns: Columns, count: int) -> Tensor:
    """Read vectors to predict, ``(N, D)`` float32; labels, splits and groups are ignored.

    Args:
        path: a table, or an ``.npy`` file or an ``.npz`` file with one array, ``features``, ``x`` or ``X``.
        columns: those with the numbers are needed, all of them and in their order.
        count: D.

    Raises:
        InputError: there is no such file, column or array, or the vectors have another number of numbers.
    """
    if path.suffix.lower() in TABLES:
        return _numbers(read_table(path), columns.numbers or ())
    arrays = NamedArrays(path, "--data.images")
    known = [name for name in ("features", "x", "X", "") if name in arrays] or arrays.names
    require(len(known) == 1, f"{path}: has the arrays {some_of(arrays.names)}; expected one, called features")
    values = _values(arrays[known[0]])
    require(
        values.shape[1] == count, f"{path}: has vectors of {values.shape[1]} numbers; expected {count}, as in training"
    )
    return values


def number_columns(table: Table, columns: Columns) -> list[str]:
    """Return the columns with numbers: those that are named, or all but label, split, group and path."""
    others = {columns.label, columns.split or "split", columns.group or "group", "path"}
    return [name for name in table.columns if name not in others] if columns.numbers is None else list(columns.numbers)


def _of_table(table: Table, columns: Columns) -> Vectors:
    split = columns.split or ("split" if "split" in table.columns else None)
    group = columns.group or ("group" if "group" in table.columns else None)
    labels = table.column(columns.label, "label_column")
    require_cells(table, labels, columns.label)
    words = table.column(split, "split_column") if split else ["train"] * len(labels)
    parts = parts_of(table, words, split or "")
    require("train" in parts, f"{table.path}: no row of column {split} says train; expected vectors to train on")
    groups = table.column(group, "group_column") if group else []
    if group:
        require_cells(table, groups, group)
        require_whole_groups(table, groups, parts, group)
    numbers = number_columns(table, columns)
    require(numbers, f"{table.path}: no column of numbers beside {columns.label}; name them with --data.columns")
    own: dict[Part, str] = {p: f"{split} {word}" for p, word in zip(parts, words, strict=True) if p != "train"}
    note = f"{len(numbers):,} columns of numbers ({some_of(numbers, most=4)}), labels of {columns.label}"
    note += f", splits of {split}" if split else ""
    note += f", {len(set(groups)):,} groups of {group}, each in one split" if group else ""
    return Vectors(_numbers(table, numbers), labels, parts, groups, own, note)


def _numbers(table: Table, names: Sequence[str]) -> Tensor:
    """Return the cells of columns as ``(N, D)`` float32."""
    found = np.empty((len(table.rows), len(names)))
    for place, name in enumerate(names):
        cells = table.column(name, "columns")
        for row, cell in enumerate(cells):
            try:
                found[row, place] = float(cell)
            except ValueError:
                found[row, place] = np.nan
        wrong = (~(np.abs(found[:, place]) <= np.finfo(np.float32).max)).nonzero()[0]  # NaN is not, either
        if len(wrong):
            raise InputError(
                f"{table.path}: column {name} has {cells[wrong[0]]!r} in line {table.lines[wrong[0]]}, and "
                f"{len(wrong):,} cells in all that are no numbers of float32; mend them, or name the columns "
                "of numbers with --data.columns"
            )
    return torch.from_numpy(found.astype(np.float32))


def _of_arrays(path: Path, names: tuple[str, str] | None) -> Vectors:
    arrays = NamedArrays(path)
    usual = next((pair for pair in PAIRS if pair[0].replace("{}", "train") in arrays), None)
    found = find_parts(arrays, names or usual)
    order = [part for part in ("train", "val", "test") if part in found]
    labels = [str(label) for part in order for label in found[part].labels.values.tolist()]
    values = {stored.title: _values(stored) for stored in {p.images.title: p.images for p in found.values()}.values()}
    vectors = torch.cat([values[found[part].images.title][found[part].places] for part in order])
    parts: list[Part] = [part for part in order for _ in found[part].labels.values]
    groups: list[str] = []
    first = found["train"].images
    if GROUPS in arrays and len({part.images.title for part in found.values()}) == 1:
        stored = arrays[GROUPS]
        require(
            stored.shape == first.shape[:1] and stored.dtype.kind in "biuUS",
            f"{stored.title}: holds {stored.shape} {stored.dtype}; expected a word or a whole number for each vector",
        )
        named = [str(each) for each in stored.read().tolist()]
        groups = [named[place] for part in order for place in found[part].places.tolist()]
    own: dict[Part, str] = {part: f"{part} of {path.name}" for part in order if part != "train"}
    note = f"vectors of {vectors.shape[1]:,} numbers in {first.title}"
    note += f", {len(set(groups)):,} groups of {GROUPS}, each in one split" if groups else ""
    return Vectors(vectors, labels, parts, groups, own, note)


def _values(array: StoredArray) -> Tensor:
    """Return an array of vectors as ``(N, D)`` float32."""
    require(
        array.dtype.kind in "biuf" and len(array.shape) == 2,
        f"{array.title}: holds {array.shape} {array.dtype}; expected (vectors, numbers of each), such as (1000, 512)",
    )
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused
        values = torch.from_numpy(array.read().astype(np.float32))
    wrong = (~values.isfinite()).any(dim=1).nonzero()[:, 0]
    if len(wrong):
        raise InputError(
            f"{array.title}: {len(wrong):,} vectors hold NaN, infinite or too large numbers, the first in row "
            f"{int(wrong[0])}; leave them out, or fill them in"
        )
    return values
