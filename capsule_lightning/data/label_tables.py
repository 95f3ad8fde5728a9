"""Tables with a row for each example: CSV, TSV and Parquet files, read as text."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from capsule_lightning.data.regular_files import kind_of, open_regular
from capsule_lightning.errors import InputError, first_line, nearest, require, some_of
from capsule_lightning.runs.plain_json import parse_json

if TYPE_CHECKING:
    from pyarrow import RecordBatch

MOST_BYTES = 2**30
"""Largest file that is read, and most that a Parquet file may unpack to: a table of ten million images."""
LONGEST_NUMBER = 64
"""Most bytes of a number in a Parquet file."""
DELIMITERS = ",;\t"
BATCH = 8192
"""Rows of a Parquet file that are unpacked at a time."""
TABLES = (".csv", ".tsv", ".parquet", ".jsonl")
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

    def some(self, chosen: Sequence[bool]) -> Table:
        """Return the table with the rows that are chosen."""
        numbers = [number for number, each in enumerate(chosen) if each]
        return self._replace(rows=[self.rows[n] for n in numbers], lines=[self.lines[n] for n in numbers])

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

    A file whose name ends in ``.parquet`` is Parquet, one that ends in ``.jsonl`` is an object of JSON in each line;
    any other is text in UTF-8, with commas, semicolons or tabs between the cells, whichever the first line has most of.

    Raises:
        InputError: there is no such file, it is too large, not a table, or two of its columns have the same name.
    """
    try:
        with open_regular(path) as file:
            require(
                os.fstat(file.fileno()).st_size <= MOST_BYTES,
                f"{path}: more than {MOST_BYTES / 2**30:.0f} GiB; split the table",
            )
            content = file.read()
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"{path}: cannot be read ({reason.lower()}); expected a CSV, TSV or Parquet file") from error
    table = {".parquet": _parquet, ".jsonl": _json_lines}.get(path.suffix.lower(), _text)(path, content)
    require(table.rows, f"{path}: the table has no rows below its first line, which names the columns")
    twice = sorted({name for name in table.columns if table.columns.count(name) > 1})
    require(not twice, f"{path}: two columns are called {some_of(twice)}; rename one of them")
    return table


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: line {line} is not text in UTF-8 ({first_line(error)}); save the table as CSV in UTF-8"
        ) from error


def _json_lines(path: Path, content: bytes) -> Table:
    columns: dict[str, None] = {}
    found: list[dict[str, object]] = []
    lines: list[int] = []
    for number, line in enumerate(_decoded(path, content).split("\n"), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"{path}, line {number}", "mend the line")
        require(isinstance(row, dict), f"{path}: line {number} is no object of JSON; expected names and values")
        columns |= dict.fromkeys(row)
        found.append(row)
        lines.append(number)
    rows = [[_in_cell(row.get(name)) for name in columns] for row in found]
    return Table(path, list(columns), rows, lines)


def _in_cell(value: object) -> str:
    """Return a value of JSON as a cell's text; what a list holds has ``|`` between."""
    if isinstance(value, list):
        return "|".join(map(_in_cell, value))
    return "" if value is None else str(value)


def _text(path: Path, content: bytes) -> Table:
    text = _decoded(path, content)
    limit = csv.field_size_limit(MOST_BYTES)  # a cell may hold a whole document
    try:
        return _cells(path, text)
    finally:
        csv.field_size_limit(limit)


def _cells(path: Path, text: str) -> Table:
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
    columns: list[str] = []
    rows: list[tuple[str, ...]] = []
    try:
        size = sum(_least_text(batch) for batch in _batches(content))
        require(size <= MOST_BYTES, f"{path}: has {size:,} bytes of text; split the table")
        for batch in _batches(content):
            columns = list(batch.schema.names)
            cells = [["" if cell is None else str(cell) for cell in column.to_pylist()] for column in batch.columns]
            rows += zip(*cells, strict=True)
    except InputError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({first_line(error)}); write it again") from error
    return Table(path, columns, rows, range(1, len(rows) + 1))


def _batches(content: bytes) -> Iterator[RecordBatch]:
    """Yield some rows of a Parquet file at a time, each text once; lists, structures and long fixed bytes are left out.

    A few bytes may stand for any number of rows, and for texts of any length.
    """
    import pyarrow.parquet

    schema = pyarrow.parquet.ParquetFile(io.BytesIO(content)).schema
    columns = [schema.column(number) for number in range(len(schema))]
    flat = [each for each in columns if each.path == each.name and not each.max_repetition_level]
    flat = [each for each in flat if each.physical_type != "FIXED_LEN_BYTE_ARRAY" or each.length <= LONGEST_NUMBER]
    texts = [each.name for each in flat if each.physical_type == "BYTE_ARRAY"]
    file = pyarrow.parquet.ParquetFile(io.BytesIO(content), read_dictionary=texts)
    yield from file.iter_batches(batch_size=BATCH, columns=[each.name for each in flat])


def _least_text(batch: RecordBatch) -> int:
    """Return how many bytes the cells of some rows have at least as text, without unfolding them."""
    import pyarrow.compute
    from pyarrow import types

    total: int = batch.num_rows * batch.num_columns
    for column in batch.columns:
        if types.is_dictionary(column.type) and not types.is_primitive(column.type.value_type):
            lengths = pyarrow.compute.binary_length(column.dictionary).take(column.indices)
            total += int(pyarrow.compute.sum(lengths).as_py() or 0)
    return total


def files_in(table: Table, column: str = "path", option: str = "path_column", what: str = "images") -> list[Path]:
    """Return the files of a column of a table, relative to its folder.

    Args:
        table: the table.
        column: its column.
        option: the option that names the column, for the error.
        what: the files are, for the error.

    Raises:
        InputError: there is no such column, or files are not there.
    """
    names = table.column(column, option)
    paths = [table.path.parent / name for name in names]
    missing = [number for number, path in enumerate(paths) if kind_of(path) != "file"]
    if missing:
        first = missing[0]
        raise InputError(
            f"{table.path}: {len(missing):,} of {len(paths):,} {what} are not there, the first {names[first]!r} in "
            f"line {table.lines[first]}; mend the paths, which are relative to the table's folder"
        )
    return paths
