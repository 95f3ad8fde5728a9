"""The original files of data sets of the literature with masks or boxes: where they are looked for, and their lists."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from capsule_lightning.data.base import ROOT_VARIABLE
from capsule_lightning.data.box_files import text_of
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.errors import InputError, first_line, require

MOST_BYTES = 2**24
"""Bytes of the longest list of names."""


def root_of(root: str | None) -> Path:
    """Return the folder of the data: that of the option, of the environment, or ``data``."""
    return Path(os.path.expanduser(root or os.environ.get(ROOT_VARIABLE) or "data"))


def fetch(folder: Path, download: Callable[[], object] | None) -> None:
    """See to it that a folder of original files is there.

    Args:
        folder: what the files are in.
        download: fetches them, and raises anything if it fails; None if nothing may be fetched.

    Raises:
        InputError: the folder is not there, or what lies there is none.
    """
    kind = kind_of(folder)
    if kind.startswith("no such") and download is not None:
        try:
            download()
        except Exception as error:  # whatever a connection, an archive or a disk fails with
            raise InputError(
                f"{folder}: is not there, and its download failed ({first_line(error)}); set --data.root to the folder "
                "that it is in"
            ) from error
        kind = kind_of(folder)
    off = "" if download is not None else ", or --data.download true"
    require(kind == "folder", f"{folder}: {kind}; set --data.root to the folder that it is in{off}")


def names_in(path: Path, columns: int) -> list[list[str]]:
    """Return the rows of a list of names.

    Args:
        path: a text file of a row for each image, whose first word is the name of the image; rows that begin with #
            are left out.
        columns: words in a row.

    Raises:
        InputError: it cannot be read, a row has other words, or a name leads out of the folder of the images.
    """
    rows = []
    for number, line in enumerate(text_of(path, MOST_BYTES, "a list of names").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        require(
            len(words) == columns,
            f"{path}, line {number}: has {len(words)} words, expected {columns}, the first of them an image's name",
        )
        require(
            words[0].isprintable() and not set(words[0]) & set("/\\\x00") and not words[0].startswith("."),
            f"{path}, line {number}: name={words[0][:60]!r}: expected the name of an image, without a folder",
        )
        rows.append(words)
    require(rows, f"{path}: names no images; expected one in each line")
    return rows
