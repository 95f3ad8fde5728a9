"""Rows as the text of a CSV file, whose names do nothing in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a text that spreadsheets compute, which may start a program."""


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    r"""Return rows as CSV; a text that a spreadsheet would take for a formula gets an apostrophe before it.

    Args:
        rows: numbers, and texts such as names of classes and files, which others may have chosen.

    Source: OWASP, CSV Injection.

    Example:
        >>> csv_text([("name", "length"), ("=1+1", -0.5), ("-1", 1)])
        "name,length\r\n'=1+1,-0.5\r\n-1,1\r\n"
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) and not _number(cell) else cell


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
