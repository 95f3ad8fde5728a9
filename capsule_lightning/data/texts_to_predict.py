"""Texts that a trained network is asked about: a file with one in each line, standard input, or a table."""

from __future__ import annotations

import os
from pathlib import Path

from capsule_lightning.data.label_tables import TABLES, read_table
from capsule_lightning.data.text_lines import read_lines
from capsule_lightning.errors import require


def read_texts_to_predict(path: str, text_column: str) -> list[str]:
    """Return the texts of a file; an empty line is an empty text, so that there is an answer for each line.

    Args:
        path: a table, whose name ends as one; ``-`` for standard input; or else a text file with a text in each line.
        text_column: the table's column.

    Raises:
        InputError: there is no such file or column, it is not text, or it is empty.
    """
    place = Path(os.path.expanduser(path))
    is_table = place.suffix.lower() in TABLES
    texts = read_table(place).column(text_column, "text_column") if is_table else read_lines(place)
    require(texts, f"{path}: no texts; expected one in each line, or a table with a column {text_column}")
    return texts
