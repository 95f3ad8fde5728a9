"""Boxes of images as files state them, whatever their format: what they have in common, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from capsule_lightning.data.regular_files import open_regular
from capsule_lightning.errors import InputError, first_line, require

MOST_BOXES = 10_000
"""Most boxes of an image: what a file says beyond that is not believed."""
MOST_IMAGES = 10**7
"""Most images of a set."""


class Box(NamedTuple):
    """An object.

    Attributes:
        edges: left, top, right and bottom edge in pixels of the image file, from its left top corner.
        label: the word or the number that the file has for its class.
        crowd: nothing counts as wrong in it: a group, or an object that the file calls difficult.
    """

    edges: tuple[float, float, float, float]
    label: str
    crowd: bool = False


class Annotated(NamedTuple):
    """An image and its objects.

    Attributes:
        path: the image file.
        boxes: of its objects, possibly none.
        size: ``(rows, columns)`` that the file states for the image; None if it states none. YOLO's boxes are shares
            of the image, which ``size`` (1, 1) stands for.
        source: where the boxes are stated, for messages.
    """

    path: Path
    boxes: list[Box]
    size: tuple[int, int] | None
    source: str


class BoxSet(NamedTuple):
    """What files of a set state.

    Attributes:
        images: the images, in a fixed order.
        class_names: names of the classes, if the files state them all; else None.
        relative: whether boxes are shares of the image, and not pixels.
    """

    images: list[Annotated]
    class_names: list[str] | None
    relative: bool = False


def read_bounded(path: Path, most: int, what: str) -> bytes:
    """Return the content of a file.

    Args:
        path: the file.
        most: most bytes.
        what: it should be, for messages.

    Raises:
        InputError: it cannot be read or is longer.
    """
    try:
        with open_regular(path) as file:
            require(
                os.fstat(file.fileno()).st_size <= most,
                f"{path}: has more than {most:,} bytes, too many for {what}; split it, or look whether it is one",
            )
            return file.read(most + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); expected {what}") from error


def text_of(path: Path, most: int, what: str) -> str:
    """Return the content of a file as text.

    Raises:
        InputError: as `read_bounded`, or it is not UTF-8.
    """
    try:
        return read_bounded(path, most, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8 ({first_line(error)}); expected {what}") from error


def inside(folder: Path, name: Any, source: str) -> Path:
    """Return the path of an image that a file names.

    Raises:
        InputError: it is no name, or one that leads out of the folder.
    """
    good = isinstance(name, str) and name.isprintable() and name.strip() and "\\" not in name
    parts = PurePosixPath(name) if good else PurePosixPath("..")
    require(
        not parts.is_absolute() and ".." not in parts.parts,
        f"{source}={str(name)[:80]!r}: expected the name of an image file in {folder}, which leads out of no folder",
    )
    return folder / parts


def number(value: Any, source: str, convert: Callable[[Any], float] = float) -> float:
    """Return a finite number.

    Args:
        value: text, or a number of JSON.
        source: the field, for messages.
        convert: what makes a number of it.

    Raises:
        InputError: it is none.
    """
    try:
        found = convert(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError, OverflowError):
        found = float("nan")
    require(isfinite(found), f"{source}={str(value)[:80]!r}: expected a finite number")
    return found


def require_few(boxes: list[Box], source: str) -> None:
    """Refuse an image with more boxes than can be meant.

    Raises:
        InputError: names the source.
    """
    require(len(boxes) <= MOST_BOXES, f"{source}: has {len(boxes):,} boxes of one image, at most {MOST_BOXES:,}")
