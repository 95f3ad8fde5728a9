"""Texts on a page: words that are colored by numbers, sentences below each other, and tables of colored numbers.

Whatever a text holds is shown as text: every word of it is escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from capsule_lightning.errors import printable

LONGEST = 200  # words that are shown of a text
STRONGEST = 0.75  # opacity of the color of the largest number


class Words(NamedTuple):
    """The words of a text.

    Attributes:
        words: as they are read.
        values: a number for each, which colors it: red above 0, blue below; none to color nothing.
        entities: for each 1 or 2 if it is the head of the first or of the second entity, else 0; none for no entities.
        heading: what the numbers are, before the words.
    """

    words: Sequence[str]
    values: Sequence[float] = ()
    entities: Sequence[int] = ()
    heading: str = ""


def shown(text: str) -> str:
    """Return a text as HTML that shows it in one line, as it is.

    Example:
        >>> shown("a <b>")
        'a &lt;b&gt;'
    """
    return escape(printable(text))


def words_html(text: Words, most: float) -> str:
    """Return the words of a text as HTML.

    Args:
        text: the words.
        most: the size of a number whose color is strongest.
    """
    parts = []
    entities = text.entities or [0] * len(text.words)
    for n, (word, entity) in enumerate(zip(text.words[:LONGEST], entities, strict=False)):
        told = f' title="{text.values[n]:+.3f}" style="background:{color(text.values[n], most)}"' if text.values else ""
        inner = shown(word) + (f"<sub>{entity}</sub>" if entity else "")
        parts.append(f"<mark{told}>{f'<b>{inner}</b>' if entity else inner}</mark>")
    more = len(text.words) - LONGEST
    end = f" ... and {more:,} more" if more > 0 else ""
    heading = f"<i>{shown(text.heading)}</i> " if text.heading else ""
    return f'<p class="words" dir="auto">{heading}{" ".join(parts)}{end}</p>'


def color(value: float, most: float) -> str:
    """Return the color of a number as CSS: red above 0, blue below, clear at 0."""
    opacity = STRONGEST * min(abs(value) / most, 1) if most > 0 and value == value else 0
    return f"rgba({'214,40,57' if value > 0 else '33,102,172'},{opacity:.2f})"


def passage(heading: str, texts: Sequence[Words]) -> str:
    """Return texts below a line that says what they are; the largest of all their numbers has the strongest color."""
    most = max((abs(value) for each in texts for value in each.values), default=0.0)
    return f'<div class="passage"><p>{shown(heading)}</p>{"".join(words_html(each, most) for each in texts)}</div>'


def sentences(heading: str, rows: Mapping[str, str]) -> str:
    """Return sentences, each behind what it is, below a line about them."""
    lines = "".join(f'<tr><th>{shown(what)}<td dir="auto">{shown(text)}' for what, text in rows.items())
    return f'<div class="passage"><p>{shown(heading)}</p><table>{lines}</table></div>'


def heat_table(values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], heading: str) -> str:
    """Return numbers in [0, 1] as a table of colored cells, with words at rows and columns and a heading above it."""
    most = max((value for row in values for value in row), default=0.0)
    head = "".join(f"<th><span>{shown(column)}</span>" for column in columns)
    body = "".join(
        f"<tr><th>{shown(name)}"
        + "".join(f'<td title="{value:.2f}" style="background:{color(value, most)}">' for value in row)
        for name, row in zip(rows, values, strict=True)
    )
    return (
        f'<div class="wide"><table class="heat"><caption>{shown(heading)}</caption><tr><td>{head}{body}</table></div>'
    )
