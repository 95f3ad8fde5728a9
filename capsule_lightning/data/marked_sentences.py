"""Sentences with two marked entities: how they are marked, and what files of relations say.

A marked sentence is text with ``<e1>...</e1>`` around one entity and ``<e2>...</e2>`` around the other, the notation of
SemEval-2010 Task 8.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from capsule_lightning.data.text_lines import read_lines
from capsule_lightning.errors import InputError, require

MARK = re.compile(r"</?e[12]>")
ENTITY = re.compile(r"<e([12])>(.*?)</e\1>")
NUMBERED = re.compile(r'^\d+\t"?(.*?)"?$')
END = "###END###"
MOST_CHARACTERS = 100_000
"""Of a sentence that is read."""


class MarkedSentence(NamedTuple):
    """What a file says of a sentence.

    Attributes:
        text: the marked sentence.
        relation: name of its relation.
        pair: names its two entities; empty if the file does not.
    """

    text: str
    relation: str
    pair: str = ""


class Cut(NamedTuple):
    """A marked sentence in its parts.

    Attributes:
        parts: text before, between and behind the marks; of the five, the second and the fourth are entities.
        order: 1 and 2, which of the entities comes first.
    """

    parts: tuple[str, ...]
    order: tuple[int, int]


def cut(text: str, place: str = "a sentence") -> Cut:
    """Return the parts of a marked sentence.

    Args:
        text: marked.
        place: where it is from, for the message.

    Raises:
        InputError: there are not exactly two entities, one of each number, neither of them empty.

    Example:
        >>> cut("The <e2>cradle</e2> holds a <e1>child</e1>.")
        Cut(parts=('The ', 'cradle', ' holds a ', 'child', '.'), order=(2, 1))
    """
    found = list(ENTITY.finditer(text))
    numbers = tuple(int(each[1]) for each in found)
    right = sorted(numbers) == [1, 2] and all(each[2].strip() for each in found) and len(MARK.findall(text)) == 4
    require(
        right,
        f"{place}: {text[:80]!r} has no two marked entities; expected <e1>...</e1> and <e2>...</e2>, once each, not "
        "within each other, and words in both",
    )
    one, other = found
    parts = text[: one.start()], one[2], text[one.end() : other.start()], other[2], text[other.end() :]
    return Cut(parts, (numbers[0], numbers[1]))


def unmarked(text: str) -> str:
    """Return a marked sentence without its marks.

    Example:
        >>> unmarked("a <e1>child</e1>")
        'a child'
    """
    return MARK.sub("", text)


def marked(text: str, first: tuple[int, int], second: tuple[int, int]) -> str:
    """Return a sentence with marks around the characters of two entities, ``(start, end)`` each.

    Example:
        >>> marked("a child", (2, 7), (0, 1))
        '<e2>a</e2> <e1>child</e1>'
    """
    plain = list(text)
    for number, (start, end) in sorted(((1, first), (2, second)), key=lambda each: -each[1][0]):
        plain[start:end] = [f"<e{number}>", *plain[start:end], f"</e{number}>"]
    return "".join(plain)


def read_semeval(path: Path) -> list[MarkedSentence]:
    """Return the sentences of a file of SemEval-2010 Task 8: number, tab, sentence; then the relation in a line.

    Raises:
        InputError: a sentence has no relation below it, or is not marked.
    """
    lines, found = read_lines(path), []
    for number, line in enumerate(lines):
        match = NUMBERED.match(line)
        if match is None:
            continue
        relation = lines[number + 1].strip() if number + 1 < len(lines) else ""
        place = f"{path}, line {number + 1}"
        require(
            relation and NUMBERED.match(relation) is None,
            f"{place}: no relation in the line below; expected one such as Cause-Effect(e1,e2), or Other",
        )
        cut(match[1], place)
        found.append(MarkedSentence(match[1], relation))
    require(
        found, f'{path}: no sentences; expected lines such as 1, a tab and "The <e1>child</e1> ... <e2>cradle</e2>."'
    )
    return found


def read_nyt(path: Path) -> list[MarkedSentence]:
    """Return the sentences of a file of NYT-10, as Riedel et al. gave it out, or in JSON lines as OpenNRE has it.

    Each line of the former has ids and names of both entities, the relation and the sentence, separated by tabs, and
    ends in ``###END###``. Each of the latter is an object with ``text``, ``relation``, and ``h`` and ``t`` with ``id``
    and ``pos``. A line whose entities overlap, or are not in its sentence, is left out.

    Raises:
        InputError: a line has another form.
    """
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            require(len(line) <= MOST_CHARACTERS, f"{place}: more than {MOST_CHARACTERS:,} characters; cut it")
            each = _json_line(line, place) if line.lstrip().startswith("{") else _tabs(line, place)
            found += [] if each is None else [each]
    require(found, f"{path}: no sentences with both entities; expected those of NYT-10")
    return found


def _json_line(line: str, place: str) -> MarkedSentence | None:
    try:
        row: dict[str, Any] = json.loads(line)
        text, relation = str(row["text"]), str(row["relation"])
        first, second = ((int(row[key]["pos"][0]), int(row[key]["pos"][1])) for key in "ht")
        pair = f"{row['h']['id']}\t{row['t']['id']}"
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise InputError(
            f"{place}: is no sentence of relations; expected an object with text, relation, and h and t with id and pos"
        ) from error
    return _between(text, relation, pair, first, second)


def _tabs(line: str, place: str) -> MarkedSentence | None:
    columns = line.replace(END, "").rstrip().split("\t")
    require(
        len(columns) >= 6,
        f"{place}: {len(columns)} columns separated by tabs; expected ids of both entities, their names, relation and "
        "sentence",
    )
    text, names = columns[5].strip(), [name.strip() for name in columns[2:4]]
    starts = [text.find(name) for name in names]
    first, second = ((start, start + len(name)) for start, name in zip(starts, names, strict=True))
    if min(starts) < 0:
        return None
    return _between(text, columns[4].strip(), f"{columns[0]}\t{columns[1]}", first, second)


def _between(
    text: str, relation: str, pair: str, first: tuple[int, int], second: tuple[int, int]
) -> MarkedSentence | None:
    """Return the sentence; None if its entities are empty, overlap, or lie beyond it."""
    (before, _), (_, behind) = sorted((first, second))
    apart = max(first[0], second[0]) >= min(first[1], second[1])
    inside = before >= 0 and behind <= len(text) and all(text[start:end].strip() for start, end in (first, second))
    if not (apart and inside) or MARK.search(text):
        return None
    return MarkedSentence(marked(text, first, second), relation, pair)
