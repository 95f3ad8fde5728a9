r"""Make a table of pairs of sentences for an experiment: listed groups are held out, and what would leak is left out.

The table that is read has tabs between its cells and names its columns in the first row. Verses of the Bible, such as
those of the King James Version and of the Reina-Valera of 1909, both in the public domain, with the book of each:

    python benchmarks/parallel_table.py bible.tsv verses.tsv --group book --sides english spanish --without '¶\' \
        --val Isaiah --test Acts Job --most_words 25
    python benchmarks/parallel_table.py descriptions.tsv software.tsv --sides english german --unique
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """Return the rows of a table by the names of its columns."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def with_parts(rows: list[Row], group: str, parts: dict[str, list[str]], sides: list[str]) -> list[Row]:
    """Return rows with the part that each is for, without those to train on of which a side is held out, too.

    Args:
        rows: of the table.
        group: name of the column by which rows are held out.
        parts: the groups that ``test`` and ``val`` hold out; a row to validate on that is tested on is left out, too.
        sides: names of both columns of sentences.
    """
    part_of = {name: part for part, names in parts.items() for name in names}
    kept: list[Row] = []
    held: set[str] = set()
    for part in (*parts, "train"):
        mine = [row for row in rows if part_of.get(row[group], "train") == part]
        kept += [{"split": part, **row} for row in mine if not any(row[side] in held for side in sides)]
        held.update(row[side] for row in mine for side in sides)
    return kept


def unique(rows: list[Row], sides: list[str]) -> list[Row]:
    """Return the first of all rows of which a side is the same."""
    seen: dict[str, set[str]] = {side: set() for side in sides}
    kept = []
    for row in rows:
        if not any(row[side] in seen[side] for side in sides):
            kept.append(row)
            for side in sides:
                seen[side].add(row[side])
    return kept


def main() -> None:
    """Read, choose, write, and say how many pairs each part has."""
    parsed = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsed.add_argument("table", type=Path, help="table to read")
    parsed.add_argument("output", type=Path, help="table to write")
    parsed.add_argument("--sides", nargs=2, default=["source", "target"], help="columns of sentences")
    parsed.add_argument("--group", help="column by which rows are held out")
    parsed.add_argument("--val", nargs="*", default=[], help="groups to validate on")
    parsed.add_argument("--test", nargs="*", default=[], help="groups to test on")
    parsed.add_argument("--most_words", type=int, help="leave out pairs with a side of more words")
    parsed.add_argument("--without", default="", help="signs to take out")
    parsed.add_argument("--unique", action="store_true", help="leave out what has occurred before, on either side")
    arguments = parsed.parse_args()
    sides = arguments.sides
    signs = str.maketrans("", "", arguments.without)
    rows = [
        {**row, **{side: " ".join(row[side].translate(signs).split()) for side in sides}}
        for row in read(arguments.table)
    ]
    rows = [row for row in rows if all(row[side] for side in sides)]
    if arguments.group is not None:
        rows = with_parts(rows, arguments.group, {"test": arguments.test, "val": arguments.val}, sides)
    if arguments.most_words is not None:
        rows = [row for row in rows if all(len(row[side].split()) <= arguments.most_words for side in sides)]
    if arguments.unique:
        rows = unique(rows, sides)
    with arguments.output.open("w", encoding="utf-8", newline="") as file:
        file.writelines("\t".join(cells) + "\n" for cells in ([*rows[0]], *(row.values() for row in rows)))
    counts = Counter(row.get("split", "pairs") for row in rows)
    print(", ".join(f"{count:,} {part}" for part, count in counts.items()))


if __name__ == "__main__":
    main()
