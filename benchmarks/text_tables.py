"""Make tables of texts as ``studies/reviews.yaml`` and ``text_transfer.yaml`` read them.

    python benchmarks/text_tables.py ratings movieReviewSnippets_GroundTruth.txt reviews.csv
    python benchmarks/text_tables.py tags packages.tsv use.csv --facet use

``ratings``: each line ends with the mean rating of a sentence, a tab and the sentence (Hutto & Gilbert 2014, whose
snippets of film reviews are the sentences of Pang & Lee 2005). The label is the sign of the rating. A sentence is
neutral, and left out, if its rating is nearer to 0 than ``--neutral``; one that occurs twice is taken once. The
split is drawn by ``--seed``.

``tags``: each line has, separated by tabs, a group, a name, a section, labels and a description, such as the packages
of a Linux distribution, whose labels are ``facet::tag`` and whose group is the source that a package is built from.
Labels are the tags of the facet that at least ``--least`` texts have as their only one. Other tags do
not count, a text without any is left out, and one that occurs twice is taken once.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

SHARES = {"test": 0.2, "val": 0.1}
"""Of the sentences; the rest is trained on."""


def read_rows(path: Path, encoding: str) -> Iterator[list[str]]:
    """Yield the cells of each line of a file, which may be gzipped."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding=encoding) as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\r\n").split("\t")


def write_rows(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write a table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def rated(rows: Iterable[Sequence[str]], neutral: float, seed: int) -> list[tuple[str, str, str]]:
    """Return text, label and split of the sentences that are not neutral.

    Example:
        >>> rows = [("1", "2.5", "fine"), ("2", "0.1", "so so"), ("3", "-1.5", "dull")]
        >>> [row[:2] for row in rated(rows, 0.5, 0)]
        [('dull', 'negative'), ('fine', 'positive')]
    """
    told = {row[-1].strip(): float(row[-2]) for row in rows}
    texts = sorted(text for text, rating in told.items() if abs(rating) >= neutral)
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    parts = ["train"] * len(texts)
    first = 0
    for part, share in SHARES.items():
        count = round(share * len(texts))
        for place in order[first : first + count]:
            parts[place] = part
        first += count
    labels = ["positive" if told[text] > 0 else "negative" for text in texts]
    return list(zip(texts, labels, parts, strict=True))


def tagged(rows: Iterable[Sequence[str]], facet: str, least: int) -> list[tuple[str, str, str]]:
    """Return text, labels with ``|`` between them, and group of the texts that have tags of a facet.

    Example:
        >>> rows = [("s", "a", "", "use::x,y::z", "one"), ("t", "b", "", "use::w, use::x", "two")]
        >>> tagged(rows, "use", 1)
        [('one', 'x', 's'), ('two', 'x', 't')]
    """
    found: dict[str, tuple[list[str], str]] = {}
    for group, _, _, cell, text in rows:
        tags = (tag.strip().partition("::") for tag in cell.split(","))
        labels = sorted({name for of, _, name in tags if of == facet})
        if labels:
            found.setdefault(text.strip(), (labels, group))
    alone = Counter(labels[0] for labels, _ in found.values() if len(labels) == 1)
    kept = {label for label, count in alone.items() if count >= least}
    rows = (
        (text, "|".join(label for label in labels if label in kept), group) for text, (labels, group) in found.items()
    )
    return [row for row in rows if row[1]]


def main(words: list[str] | None = None) -> None:
    """Write a table and say how many texts it has."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("kind", choices=["ratings", "tags"])
    options.add_argument("source", type=Path, help="the file, gzipped if its name ends in .gz")
    options.add_argument("table", type=Path, help="where the table is written")
    options.add_argument("--neutral", type=float, default=0.5, help="of ratings (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="draws the split of ratings (default: %(default)s)")
    options.add_argument("--facet", default="use", help="of tags (default: %(default)s)")
    options.add_argument("--least", type=int, default=50, help="texts of a tag alone (default: %(default)s)")
    options.add_argument("--encoding", default="utf-8", help="of the file (default: %(default)s)")
    given = options.parse_args(words)
    rows = read_rows(given.source, given.encoding)
    if given.kind == "ratings":
        head, made = ("text", "label", "split"), rated(rows, given.neutral, given.seed)
    else:
        head, made = ("text", "label", "group"), tagged(rows, given.facet, given.least)
    write_rows(given.table, [head, *made])
    print(f"wrote {given.table}: {len(made):,} texts")


if __name__ == "__main__":
    main()
