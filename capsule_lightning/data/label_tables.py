"""Tables with a row for each example: CSV, TSV and Parquet files, read as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from capsule_lightning.data.regular_files import kind_of, open_regular
from capsule_lightning.errors import InputError, first_line, nearest, require, some_of

MOST_BYTES = 2**30
"""Largest file that is read: a table of ten million images."""
DELIMITERS = ",;\t"
TABLES = (".csv", ".tsv", ".parquet")
"""How the names of tables end."""


class Table(NamedTuple):
    """A table as text.

    Attributes:
        path: its file.
        columns: names of the columns.
        rows: cells of each row, as many as there are columns.
        lines: where each row is in the file: the number of its line, or of its row, from 1.
    """

    path: Path
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]

    def column(self, name: str, option: str) -> list[str]:
        """Return the cells of a column, without blanks around them.

        Args:
            name: of the column.
            option: the option that names it, for the error.

        Raises:
            InputError: there is no such column; those that there are are named.
        """
        if name not in self.columns:
            raise InputError(
                f"{self.path}: no column {name!r}; it has {some_of(list(self.columns))}"
                f"{nearest(name, self.columns)}; call it so, or name the column with --data.{option}"
            )
        place = self.columns.index(name)
        return [row[place].strip() for row in self.rows]


def read_table(path: Path) -> Table:
    """Read a table, whose first row names the columns.

    A file whose name ends in ``.parquet`` is Parquet; any other is text in UTF-8, with commas, semicolons or tabs
    between the cells, whichever the first line has most of.

    Raises:
        InputError: there is no such file, it is too large, not a table, or two of its columns have the same name.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"{path}: cannot be read ({reason.lower()}); expected a CSV, TSV or Parquet file") from error
    require(len(content) <= MOST_BYTES, f"{path}: more than {MOST_BYTES / 2**30:.0f} GiB; split the table")
    table = _parquet(path, content) if path.suffix.lower() == ".parquet" else _text(path, content)
    require(table.rows, f"{path}: the table has no rows below its first line, which names the columns")
    twice = sorted({name for name in table.columns if table.columns.count(name) > 1})
    require(not twice, f"{path}: two columns are called {some_of(twice)}; rename one of them")
    return table


def _text(path: Path, content: bytes) -> Table:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not text in UTF-8 ({first_line(error)}); save the table as CSV in UTF-8"
        ) from error
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=head.count), strict=True)
    columns: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [cell.strip() for cell in cells]
                continue
            if len(cells) != len(columns):
                raise InputError(
                    f"{path}: line {reader.line_num} has {len(cells)} cells, and the first line names {len(columns)} "
                    "columns; mend the line"
                )
            rows.append(cells)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} cannot be read ({first_line(error)}); mend it") from error
    return Table(path, columns, rows, lines)


def _parquet(path: Path, content: bytes) -> Table:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f'{path}: pyarrow reads such files, and is not installed: pip install "capsule_lightning[parquet]", or '
            "save the table as CSV"
        ) from error
    try:
        found = pyarrow.parquet.read_table(io.BytesIO(content)).to_pydict()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({first_line(error)}); write it again") from error
    columns = ["" if cell is None else str(cell) for cell in found]
    cells = [["" if cell is None else str(cell) for cell in column] for column in found.values()]
    rows = list(zip(*cells, strict=True))
    return Table(path, columns, rows, range(1, len(rows) + 1))


def files_in(table: Table) -> list[Path]:
    """Return the files of column ``path`` of a table, relative to its folder.

    Raises:
        InputError: there is no such column, or files are not there.
    """
    names = table.column("path", "path_column")
    paths = [table.path.parent / name for name in names]
    missing = [number for number, path in enumerate(paths) if kind_of(path) != "file"]
    if missing:
        first = missing[0]
        raise InputError(
            f"{table.path}: {len(missing):,} of {len(paths):,} images are not there, the first {names[first]!r} in "
            f"line {table.lines[first]}; mend the paths, which are relative to the table's folder"
        )
    return paths
