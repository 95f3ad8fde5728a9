"""Sentences in two languages, from a table or from two files with a sentence in each line."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from capsule_lightning.data.image_table import parts_of
from capsule_lightning.data.label_tables import Table, read_table
from capsule_lightning.data.split_folders import Part
from capsule_lightning.data.text_lines import MOST_BYTES, decoded, read_bytes, read_lines
from capsule_lightning.errors import InputError, first_line, require

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
    """

    title: str
    sources: Sequence[str]
    targets: Sequence[str]
    parts: Sequence[Part]
    groups: Sequence[str]
    own_parts: dict[str, str]

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


def of_files(train: tuple[Path, Path], val: tuple[Path, Path] | None, test: tuple[Path, Path] | None) -> ParallelText:
    """Return the pairs of one, two or three pairs of files.

    Raises:
        InputError: see `read_pairs_of_files`.
    """
    sources: list[str] = []
    targets: list[str] = []
    parts: list[Part] = []
    own: dict[str, str] = {}
    named: tuple[tuple[Part, tuple[Path, Path] | None], ...] = (("train", train), ("val", val), ("test", test))
    for part, files in named:
        if files is None:
            continue
        ours, theirs = read_pairs_of_files(*files)
        sources, targets, parts = sources + ours, targets + theirs, parts + [part] * len(ours)
        own |= {} if part == "train" else {part: str(files[0])}
    return ParallelText(f"{train[0]}, {train[1]}", sources, targets, parts, sources, own)


def split_by_group(groups: Sequence[str], size: float | int, seed: int, option: str) -> tuple[list[int], list[int]]:
    """Split whole groups off, in an order of chance, until no other fits into the size.

    Args:
        groups: the group of each pair.
        size: of the part split off, a number of pairs or a fraction.
        seed: chooses the groups.
        option: that sets ``size``, for the message.

    Returns:
        Places of what remains and of what is split off, both in ascending order.

    Raises:
        InputError: one of both would be empty.

    Example:
        >>> split_by_group(["Ruth"] * 3 + ["Job"], 1, 0, "test_size")
        ([0, 1, 2], [3])
    """
    count = round(size * len(groups)) if 0 < size < 1 else int(size)
    if not count:
        return list(range(len(groups))), []
    places: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        places.setdefault(group, []).append(number)
    names = list(places)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    taken: set[int] = set()
    for number in order:
        if len(taken) + len(places[names[number]]) <= count:
            taken.update(places[names[number]])
    require(
        0 < len(taken) < len(groups),
        f"{option}={size}: cannot split {count:,} of {len(groups):,} pairs in {len(names):,} groups off: the smallest "
        f"group has {min(map(len, places.values())):,}; change --data.{option}",
    )
    return [number for number in range(len(groups)) if number not in taken], sorted(taken)
