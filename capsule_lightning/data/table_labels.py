"""The labels and weights of a table's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from capsule_lightning.data.label_tables import Table
from capsule_lightning.data.shares import require_weights
from capsule_lightning.errors import InputError, require, some_of

ONES = ("1", "1.0", "true", "yes")
ZEROS = ("0", "0.0", "false", "no")


class RowLabels(NamedTuple):
    """What the rows of a table are labeled with.

    Attributes:
        labels: the names of the classes of each row, in the order of the table; exactly one unless rows may have
            several. Empty for a row without a label.
        known: whether each row is labeled.
        names: of the classes, if the table itself names them; else empty, and the labels do.
        note: which columns say so.
    """

    labels: Sequence[tuple[str, ...]]
    known: Sequence[bool]
    names: Sequence[str]
    note: str

    def labeled(self) -> RowLabels:
        """Return those of the rows that are labeled."""
        labels = [each for each, known in zip(self.labels, self.known, strict=True) if known]
        return self._replace(labels=labels, known=[True] * len(labels))


def several_of(said: RowLabels, asked: bool | None, separator: str | None) -> bool:
    """Return whether images may have any number of classes.

    Args:
        said: what rows are labeled with.
        asked: what the user says; None to judge.
        separator: see `read_row_labels`.

    Raises:
        InputError: the user says no, and some row has several, or none.
    """
    single = all(len(each) == 1 for each in said.labels)
    if asked is not None:
        require(
            asked or single,
            "several_labels=false: some rows have several labels, or none; leave it out to train on any number of them",
        )
        return asked
    return separator is not None or not single


def read_row_labels(
    table: Table, label_column: str, separator: str | None = None, label_columns: Sequence[str] | None = None
) -> RowLabels:
    """Read the labels of a table.

    Args:
        table: the table.
        label_column: the column with the labels, unless there are ``label_columns``.
        separator: what stands between the labels of a row; None for one label a row. An empty cell then says that the
            row has none of the classes.
        label_columns: columns that are a class each, with 1 where a row has it and 0 elsewhere.

    Raises:
        InputError: a column is missing, or a cell of a class's column is something else.
    """
    if label_columns is not None:
        return _of_columns(table, label_columns)
    cells = table.column(label_column, "label_column")
    if separator is None:
        several = sum("|" in cell for cell in cells)
        hint = f" ({several:,} have a |, which --data.label_separator would part)" if several else ""
        known = [bool(cell) for cell in cells]
        return RowLabels([(cell,) if cell else () for cell in cells], known, (), f"labels of {label_column}{hint}")
    sets = [tuple(dict.fromkeys(each.strip() for each in cell.split(separator) if each.strip())) for cell in cells]
    note = f"labels of {label_column}, with {separator} between those of a row"
    return RowLabels(sets, [bool(each) for each in sets], (), note)


def _of_columns(table: Table, label_columns: Sequence[str]) -> RowLabels:
    require(
        len(set(label_columns)) == len(label_columns) >= 2,
        f"label_columns={list(label_columns)}: expected two columns or more, each once",
    )
    rows: list[list[str]] = [[] for _ in table.rows]
    known = [True] * len(table.rows)
    for name in label_columns:
        for number, cell in enumerate(table.column(name, "label_columns")):
            said = cell.lower()
            if said in ONES:
                rows[number].append(name)
            elif not said:
                known[number] = False
            elif said not in ZEROS:
                raise InputError(
                    f"{table.path}: line {table.lines[number]} has {cell!r} in column {name}; expected 1 if the image "
                    "is of that class, and 0 if not"
                )
    return RowLabels([tuple(row) for row in rows], known, list(label_columns), f"labels of {some_of(label_columns)}")


def read_row_weights(table: Table, column: str) -> list[float]:
    """Read how much each row counts in the loss.

    Raises:
        InputError: there is no such column; a cell is not a finite number of 0 or more, or all are 0.
    """
    weights = []
    for line, cell in zip(table.lines, table.column(column, "weight_column"), strict=True):
        try:
            weights.append(float(cell))
        except ValueError as error:
            raise InputError(
                f"{table.path}: line {line} has {cell!r} in column {column}; expected a number of 0 or more, by which "
                "the loss of the image is multiplied; or name another column with --data.weight_column"
            ) from error
    require_weights(torch.tensor(weights, dtype=torch.float64), f"{table.path}: column {column}")
    return weights
