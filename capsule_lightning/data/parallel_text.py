"""Sentences in two languages, from a table or from two files with a sentence in each line."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from capsule_lightning.data.image_table import parts_of
from capsule_lightning.data.label_tables import Table, read_table
from capsule_lightning.data.split_folders import Part
from capsule_lightning.data.text_lines import MOST_BYTES, decoded, read_bytes, read_lines
from capsule_lightning.errors import InputError, first_line, require

Files = tuple[Path, Path]
"""One of sources, and one of targets."""
VERSES = Path(__file__).with_name("shipped_texts") / "verses_en_es.tsv.gz"
"""Verses of the King James Bible and the Reina-Valera of 1909, both in the public domain, split by book."""
TABULAR = (".tsv", ".tab", ".tsv.gz")
"""How the names of tables end whose cells are taken as they are, quotation marks too."""


class ParallelText(NamedTuple):
    """N pairs of sentences.

    Attributes:
        title: what they are called.
        sources, targets: the sentences.
        parts: the part that each pair is listed for; ``train`` if the data do not say.
        groups: the group of each pair, which stays in one part, such as its book; by default its source sentence, so
            that none of those to train on is among those to test on.
        own_parts: those of ``val`` and ``test`` that the data list themselves, and what they call them.
        empty: how many more pairs there were, which have an empty side and are left out.
    """

    title: str
    sources: Sequence[str]
    targets: Sequence[str]
    parts: Sequence[Part]
    groups: Sequence[str]
    own_parts: dict[str, str]
    empty: int = 0

    def full(self) -> ParallelText:
        """Return the pairs that have no empty side.

        Raises:
            InputError: there are none.
        """
        pairs = zip(self.sources, self.targets, strict=True)
        kept = [number for number, pair in enumerate(pairs) if all(map(str.strip, pair))]
        require(kept, f"{self.title}: every pair has an empty side; expected sentences in both columns or files")
        return self.some(kept)._replace(empty=len(self.sources) - len(kept))

    def some(self, chosen: Sequence[int]) -> ParallelText:
        """Return the pairs at some places."""
        return self._replace(
            sources=[self.sources[n] for n in chosen],
            targets=[self.targets[n] for n in chosen],
            parts=[self.parts[n] for n in chosen],
            groups=[self.groups[n] for n in chosen],
        )

    def places(self, *wanted: Part) -> list[int]:
        """Return the places of the pairs that are listed for some parts."""
        return [number for number, part in enumerate(self.parts) if part in wanted]


class Columns(NamedTuple):
    """Names of a table's columns.

    Attributes:
        source, target: the sentences.
        split: the part of each pair; None if there is none.
        group: the group of each pair; None if there is none.
    """

    source: str
    target: str
    split: str | None
    group: str | None


_VERSES = Columns("english", "spanish", "split", "book")


class PairFiles(NamedTuple):
    """Where pairs are read from.

    Attributes:
        table: a table; None for none.
        columns: names of its columns.
        train, val, test: two files each; None for none.
    """

    table: Path | None
    columns: Columns
    train: Files | None
    val: Files | None
    test: Files | None

    def read(self) -> ParallelText:
        """Return all pairs; the verses that come with the package if there is neither a table nor a file.

        Raises:
            InputError: see `read_pairs_of_table` and `read_pairs_of_files`; or every pair has an empty side.
        """
        if self.table is not None:
            return read_pairs_of_table(self.table, self.columns).full()
        if self.train is not None:
            return of_files(self.train, self.val, self.test).full()
        found = read_pairs_of_table(VERSES, _VERSES)._replace(title="verses of the Bible, English to Spanish")
        return found._replace(own_parts={"val": "the books Isaiah and Acts", "test": "the book Job"}).full()


def read_pairs_of_table(path: Path, columns: Columns) -> ParallelText:
    """Read a table with a pair of sentences in each row; its first row names the columns.

    A file whose name ends in ``.tsv`` or ``.tsv.gz`` has cells between tabs, taken as they are; for others see
    `read_table`.

    Raises:
        InputError: there is no such file or column, it is not UTF-8 (file and line are named), a row has fewer cells
            than the first, or a part is none.
    """
    table = _tabular(path) if path.name.lower().endswith(TABULAR) else read_table(path)
    sources, targets = (
        table.column(name, f"{of}_column") for name, of in ((columns.source, "source"), (columns.target, "target"))
    )
    parts: Sequence[Part] = ["train"] * len(sources)
    own: dict[str, str] = {}
    if columns.split is not None:
        parts = parts_of(table, table.column(columns.split, "split_column"), columns.split)
        own = {part: f"column {columns.split}" for part in ("val", "test") if part in parts}
    groups = sources if columns.group is None else table.column(columns.group, "group_column")
    return ParallelText(str(path), sources, targets, parts, groups, own)


def _tabular(path: Path) -> Table:
    content = read_bytes(path)
    if path.suffix.lower() == ".gz":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                content = file.read(MOST_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{path}: cannot be unpacked ({first_line(error)}); expected a table packed by gzip"
            ) from error
        require(len(content) <= MOST_BYTES, f"{path}: unpacks to more than {MOST_BYTES:,} bytes; split it")
    lines = decoded(content, path).split("\n")
    rows = [line.removesuffix("\r").split("\t") for line in lines]
    numbers = [number for number, row in enumerate(rows) if row != [""]]
    require(len(numbers) > 1, f"{path}: the table has no rows below its first line, which names the columns")
    names = rows[numbers[0]]
    for number in numbers[1:]:
        require(
            len(rows[number]) == len(names),
            f"{path}, line {number + 1}: {len(rows[number])} cells between tabs, and the first line has {len(names)}; "
            "mend the line",
        )
    return Table(path, names, [rows[number] for number in numbers[1:]], [number + 1 for number in numbers[1:]])


def read_pairs_of_files(source: Path, target: Path) -> tuple[list[str], list[str]]:
    """Read two files of which line n of one is the translation of line n of the other.

    Raises:
        InputError: a file is missing or not UTF-8 (file and line are named), or they have unlike numbers of lines.
    """
    sources, targets = read_lines(source), read_lines(target)
    require(
        len(sources) == len(targets),
        f"{source}: has {len(sources):,} lines, and {target} has {len(targets):,}; expected as many, the translation "
        "of each line in the same line",
    )
    require(sources, f"{source}: has no lines; expected a sentence in each")
    return sources, targets


def of_files(train: Files, val: Files | None, test: Files | None) -> ParallelText:
    """Return the pairs of one, two or three pairs of files.

    Raises:
        InputError: see `read_pairs_of_files`.
    """
    sources: list[str] = []
    targets: list[str] = []
    parts: list[Part] = []
    own: dict[str, str] = {}
    named: tuple[tuple[Part, Files | None], ...] = (("train", train), ("val", val), ("test", test))
    for part, files in named:
        if files is None:
            continue
        ours, theirs = read_pairs_of_files(*files)
        sources, targets, parts = sources + ours, targets + theirs, parts + [part] * len(ours)
        own |= {} if part == "train" else {part: str(files[0])}
    return ParallelText(f"{train[0]}, {train[1]}", sources, targets, parts, sources, own)


def two_files(option: str, source: str | None, target: str | None) -> Files | None:
    """Return the paths of two files; None if neither is given.

    Raises:
        InputError: one is given without the other.
    """
    if source is None and target is None:
        return None
    if source is None or target is None:
        raise InputError(f"{option}={source}: expected two files, {option} and {option.replace('source', 'target')}")
    return Path(os.path.expanduser(source)), Path(os.path.expanduser(target))
