"""The usual files of published sets of texts."""

from __future__ import annotations

import csv
import html
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from capsule_lightning.data.split_folders import Part
from capsule_lightning.data.text_lines import read_bytes
from capsule_lightning.data.texts import Texts
from capsule_lightning.errors import InputError, first_line, require

TOPICS = 10
"""Largest topics of Reuters-21578 that are taken."""
LEAF = re.compile(r"\(\d ([^()]+)\)")
STORY = re.compile(r"<REUTERS([^>]*)>(.*?)</REUTERS>", re.DOTALL)
TOPIC = re.compile(r"<TOPICS>(.*?)</TOPICS>", re.DOTALL)
TITLE = re.compile(r"<TITLE>(.*?)</TITLE>", re.DOTALL)
BODY = re.compile(r"<BODY>(.*?)</BODY>", re.DOTALL)
BRACKETS = {"-LRB-": "(", "-RRB-": ")"}


def read_old(path: Path) -> str:
    """Return what a file says, in UTF-8 or else in Latin-1, in which every byte is a character.

    Raises:
        InputError: there is no such file.
    """
    content = read_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file that are not blank."""
    return [line.strip() for line in read_old(path).split("\n") if line.strip()]


def read_pair(root: Path, files: Mapping[str, str]) -> Texts:
    """Read a file of sentences for each class.

    Args:
        root: folder of the files.
        files: by class.
    """
    rows = [(line, name) for name, file in files.items() for line in lines_of(root / file)]
    return Texts([text for text, _ in rows], [(name,) for _, name in rows], ["train"] * len(rows), names=[*files])


def read_sst(root: Path, classes: int) -> Texts:
    """Read whole sentences from the trees of Stanford's treebank; of two classes, neutral ones are left out."""
    five = ("very negative", "negative", "neutral", "positive", "very positive")
    names = five if classes == 5 else ("negative", "positive")
    files: dict[Part, str] = {"train": "train.txt", "val": "dev.txt", "test": "test.txt"}
    texts, labels, parts = [], [], []
    for part, file in files.items():
        for number, line in enumerate(lines_of(root / file), 1):
            require(
                line[:1] == "(" and line[1:2] in "01234" and line[1:2],
                f"{root / file}, line {number}: expected a tree such as (3 (2 a) (4 b)), and found {line[:40]!r}",
            )
            label = int(line[1])
            if classes == 2 and label == 2:
                continue
            words = [BRACKETS.get(word, word) for word in LEAF.findall(line)]
            texts.append(" ".join(words))
            labels.append((names[label if classes == 5 else label // 3],))
            parts.append(part)
    return Texts(texts, labels, parts, (), {"val": files["val"], "test": files["test"]}, names=names)


def read_trec(root: Path) -> Texts:
    """Read questions with the coarse class before the colon."""
    files: dict[Part, str] = {"train": "train_5500.label", "test": "TREC_10.label"}
    texts, labels, parts = [], [], []
    for part, file in files.items():
        for number, line in enumerate(lines_of(root / file), 1):
            label, _, text = line.partition(" ")
            coarse, colon, _ = label.partition(":")
            require(
                colon and text, f"{root / file}, line {number}: expected CLASS:kind question, and found {line[:40]!r}"
            )
            texts.append(text)
            labels.append((coarse,))
            parts.append(part)
    return Texts(texts, labels, parts, (), {"test": files["test"]})


def read_ag_news(root: Path) -> Texts:
    """Read class, title and description of news."""
    names = ("World", "Sports", "Business", "Sci/Tech")
    files: dict[Part, str] = {"train": "train.csv", "test": "test.csv"}
    texts, labels, parts = [], [], []
    for part, file in files.items():
        rows = csv.reader(io.StringIO(read_old(root / file), newline=""), strict=True)
        try:
            for cells in rows:
                require(
                    len(cells) == 3 and cells[0] in ("1", "2", "3", "4"),
                    f"{root / file}, line {rows.line_num}: expected a class of 1 to 4, a title and a text",
                )
                texts.append(f"{cells[1]} {cells[2]}".replace("\\", " "))
                labels.append((names[int(cells[0]) - 1],))
                parts.append(part)
        except csv.Error as error:
            raise InputError(f"{root / file}, line {rows.line_num}: cannot be read ({first_line(error)})") from error
    return Texts(texts, labels, parts, (), {"test": files["test"]}, names=names)


def read_reuters(root: Path) -> Texts:
    """Read the stories of Reuters-21578 that have one or more of its ten largest topics, in the ModApte split."""
    files = sorted(root.glob("reut2-*.sgm"))
    require(files, f"{root}: no files reut2-000.sgm, ...; expected those of Reuters-21578")
    found: list[tuple[Part, str, tuple[str, ...]]] = []
    for file in files:
        for attributes, story in STORY.findall(read_old(file)):
            if 'TOPICS="YES"' not in attributes:
                continue
            part = next((p for p in ("train", "test") if f'LEWISSPLIT="{p.upper()}"' in attributes), None)
            if part is None:
                continue
            text = " ".join(html.unescape(each) for kind in (TITLE, BODY) for each in kind.findall(story))
            topics = re.findall(r"<D>(.*?)</D>", "".join(TOPIC.findall(story)))
            found.append((part, text, tuple(topics)))  # type: ignore[arg-type]
    counts = Counter(topic for part, _, topics in found if part == "train" for topic in topics)
    largest = [topic for topic, _ in sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:TOPICS]]
    kept = [(part, text, tuple(t for t in topics if t in largest)) for part, text, topics in found]
    kept = [each for each in kept if each[2]]
    parts: Sequence[Part] = [part for part, _, _ in kept]
    labels = [topics for _, _, topics in kept]
    own: dict[Part, str] = {"test": "LEWISSPLIT TEST"}
    return Texts([text for _, text, _ in kept], labels, parts, (), own, several=True, names=sorted(largest))


READERS: Mapping[str, Callable[[Path], Texts]] = {
    "mr": partial(read_pair, files={"negative": "rt-polarity.neg", "positive": "rt-polarity.pos"}),
    "subj": partial(read_pair, files={"subjective": "quote.tok.gt9.5000", "objective": "plot.tok.gt9.5000"}),
    "cr": partial(read_pair, files={"negative": "custrev.neg", "positive": "custrev.pos"}),
    "sst2": partial(read_sst, classes=2),
    "sst5": partial(read_sst, classes=5),
    "trec": read_trec,
    "ag_news": read_ag_news,
    "reuters10": read_reuters,
}
