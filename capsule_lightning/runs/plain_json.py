"""JSON of plain values, read from a stranger without harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from capsule_lightning.errors import InputError, first_line, require

MOST_CHARACTERS = 10 * 2**20
"""Length of the longest JSON text that is read."""


def parse_json(text: str, name: str | Path, remedy: str = "write it again", most: int = MOST_CHARACTERS) -> Any:
    """Return the value that a JSON text states: text, numbers, true, false, null, lists and mappings.

    Args:
        text: one JSON document.
        name: of the file or of the place in it, for messages.
        remedy: what to do if the text cannot be used, the end of the message.
        most: length of the longest text that is read.

    Raises:
        InputError: the text is not JSON, has numbers that are not finite, or is too long or too deep.

    Example:
        >>> parse_json('{"shape": [1, 28, 28]}', "source.json")
        {'shape': [1, 28, 28]}
    """
    require(len(text) <= most, f"{name}: has {len(text):,} characters, at most {most:,}; {remedy}")

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise InputError(f"{name}: has too many lists and mappings inside each other; {remedy}") from error
    except ValueError as error:  # a number of thousands of digits is one too
        raise InputError(f"{name}: is not valid JSON ({first_line(error)}); {remedy}") from error
