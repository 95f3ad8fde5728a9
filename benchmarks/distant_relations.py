"""Make sentences with relations by distant supervision, as `NYTDataModule` reads them, from a distribution's own index.

    apt-cache dumpavail > index.txt
    python benchmarks/distant_relations.py index.txt packages.tsv train.jsonl test.jsonl

A sentence of the description of package A that names package B, whose name has a hyphen or a digit, is labeled with
what the index says of the two: a field of A that lists B, such as Depends, ``needed-by`` if B depends on A,
``same-source``, or ``NA``. No one has read whether the sentence says so. Both names are replaced, because names such as
``-doc`` tell the label: A, which every sentence is made to begin with, by one word and B by another. A fifth of the
sources from which packages A are built, drawn by ``--seed``, and all their sentences are the test set.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from text_tables import read_rows

FIELDS = ("Depends", "Recommends", "Suggests", "Breaks")
"""Of the index that are relations, the first that lists the other package."""
OTHERS = ("Enhances", "Provides", "Conflicts", "Replaces")
"""Fields too rare to learn: sentences about such pairs are left out."""
ITSELF, OTHER = "thispackage", "otherpackage"
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+]")
SENTENCE = re.compile(r"(?<=[.!?]) +(?=[A-Z0-9])")


def read_index(lines: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return what the index says of each package: its ``source``, and by field the packages that it lists.

    Example:
        >>> read_index(["Package: a-doc", "Source: a (1)", "Suggests: b (>= 2) | c"])["a-doc"]
        {'source': 'a', 'Suggests': {'b', 'c'}}
    """
    found: dict[str, dict[str, Any]] = {}
    package: dict[str, Any] = {}
    for line in lines:
        key, _, value = line.rstrip("\n").partition(": ")
        if key == "Package":
            package = found[value] = {"source": value}
        elif key == "Source":
            package["source"] = value.split()[0]
        elif key == "Pre-Depends" or key in FIELDS or key in OTHERS:
            names = {
                each.split()[0].split(":")[0] for part in value.split(",") for each in part.split("|") if each.strip()
            }
            package.setdefault("Depends" if key == "Pre-Depends" else key, set()).update(names)
    return found


def relation(index: Mapping[str, Mapping[str, Any]], one: str, other: str) -> str | None:
    """Return the relation of a package to another; None if it is one of those that are left out."""
    here, there = index[one], index[other]
    said = next((field for field in FIELDS if other in here.get(field, ())), None)
    if said is not None:
        return said.lower()
    if one in there.get("Depends", ()):
        return "needed-by"
    if here["source"] == there["source"]:
        return "same-source"
    return None if any(other in here.get(field, ()) for field in OTHERS) else "NA"


def sentences(
    index: Mapping[str, Mapping[str, Any]], rows: Iterable[list[str]], longest: int = 60
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the source of a package, and a sentence about it and another as OpenNRE's JSON has it.

    Args:
        index: see `read_index`.
        rows: source, package, section, tags and description.
        longest: most words of a sentence.
    """
    seen = set()
    for source, package, _, _, description in rows:
        for sentence in SENTENCE.split(description) if package in index else ():
            for match in NAME.finditer(sentence):
                name = match[0].rstrip(".")
                if name == package or name not in index or not re.search(r"[-0-9]", name):
                    continue
                said = relation(index, package, name)
                own = rf"(?<![\w-]){re.escape(package)}(?![\w-])"
                parts = sentence[: match.start()], sentence[match.start() + len(name) :]
                before, behind = (re.sub(own, ITSELF, part) for part in parts)
                text = f"{ITSELF} : {before}{OTHER}{behind}"
                if said is None or len(text.split()) > longest or (text, package, name) in seen:
                    continue
                seen.add((text, package, name))
                place = len(ITSELF) + 3 + len(before)
                yield (
                    source,
                    {
                        "text": text,
                        "relation": said,
                        "h": {"id": package, "pos": [0, len(ITSELF)]},
                        "t": {"id": name, "pos": [place, place + len(OTHER)]},
                    },
                )


def main(words: list[str] | None = None) -> None:
    """Write the sentences and say how many there are of each relation."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("index", type=Path, help="fields of all packages, as apt-cache dumpavail prints them")
    options.add_argument("packages", type=Path, help="source, package, section, tags and description, tab separated")
    options.add_argument("train", type=Path, help="where the sentences to train on are written")
    options.add_argument("test", type=Path, help="where those to test on are written")
    options.add_argument("--seed", type=int, default=0, help="draws the sources to test on (default: %(default)s)")
    given = options.parse_args(words)
    with given.index.open(encoding="utf-8") as lines:
        index = read_index(lines)
    rows = list(sentences(index, read_rows(given.packages, "utf-8")))
    sources = sorted({source for source, _ in rows})
    tested = set(random.Random(given.seed).sample(sources, len(sources) // 5))
    for path, wanted in ((given.train, False), (given.test, True)):
        kept = [row for source, row in rows if (source in tested) == wanted]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in kept), encoding="utf-8")
        counts = ", ".join(
            f"{name} {count:,}" for name, count in Counter(row["relation"] for row in kept).most_common()
        )
        print(f"wrote {path}: {len(kept):,} sentences, {counts}")


if __name__ == "__main__":
    main()
