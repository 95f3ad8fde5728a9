"""Read image files into one tensor."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.data.facts import Facts, facts_of
from capsule_lightning.data.pictures import Reading, Seen, UnreadableImageError, open_image, orientation, read_picture
from capsule_lightning.errors import InputError, require, some_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
"""How the names of image files end, in small or capital letters."""
NAMED = 10
"""Most files that a message names."""
MOST_DAMAGED = 1000
"""Most damaged files that are left out."""


class FilesRead(NamedTuple):
    """Pictures of image files.

    Attributes:
        images: ``(M, C, H, W)`` of the type of the reading.
        kept: which of the N files they are of, ascending; all of them unless damaged ones are left out.
        facts: what was met in them.
    """

    images: Tensor
    kept: list[int]
    facts: Facts


class Decoded(NamedTuple):
    """Pictures of image files, and of files that could not be read.

    Attributes:
        pictures: ``(N, H, W, C)`` of the type of the reading, undefined if a file could not be read.
        seen: what was met in each file; None if it could not be read.
        damaged: why files could not be read, by their numbers, ascending.
    """

    pictures: np.ndarray
    seen: list[Seen | None]
    damaged: dict[int, UnreadableImageError]


def require_size(channels: int, image_size: tuple[int, int] | None, max_pixels: int) -> None:
    """Refuse what image files cannot be brought to.

    Raises:
        InputError: neither gray nor color; no pixels, or more than a file may have.
    """
    require(channels in (1, 3), f"channels={channels}: expected 1 (gray) or 3 (color)")
    require(
        image_size is None or (min(image_size) >= 1 and image_size[0] * image_size[1] <= max_pixels),
        f"image_size={image_size}: expected at least 1 row and 1 column, and at most {max_pixels:,} pixels "
        "(--data.max_pixels)",
    )


def size_of(path: Path, reading: Reading | None = None, content: bytes | None = None) -> tuple[int, int]:
    """Return the numbers of rows and columns of an image file as a person sees it, upright; see `open_image`.

    Raises:
        InputError: the file is not an image.
    """
    with warnings.catch_warnings(action="ignore"), open_image(path, reading or Reading(), content) as image:
        if image.format == "TIFF":
            image.load()  # which turns it
        return (image.width, image.height) if orientation(image) >= 5 else (image.height, image.width)


def read_images(
    paths: Sequence[Path], shape: tuple[int, int, int], resize: bool = False, reading: Reading | None = None
) -> Tensor:
    """Return the pictures ``(N, C, H, W)`` of image files, see `read_files`."""
    return read_files(paths, shape, resize, reading).images


def read_files(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    resize: bool = False,
    reading: Reading | None = None,
    content_of: Callable[[int], bytes | None] | None = None,
) -> FilesRead:
    """Decode image files into what a person sees.

    A picture is turned upright as its EXIF data say. Transparency is laid on the background. Of 16 bits the upper 8 are
    taken, unless the reading states which values become 0 and 1; palettes and CMYK become colors, gray becomes color or
    color gray, and of several frames or pages the first is read.

    Args:
        paths: N files with 8 or 16 bits for each channel.
        shape: ``(C, H, W)`` of the result; one channel for gray, three for color.
        resize: bring images of another size to this one (bilinear, antialiased) instead of refusing them.
        reading: how files become pictures; None for the defaults.
        content_of: returns what a file holds, by its number, if it is not to be opened.

    Raises:
        InputError: files cannot be read or have another size; the message names ten of them.
    """
    reading = reading or Reading()
    decoded = decode_files(paths, shape, resize, reading, content_of)
    kept = [number for number, seen in enumerate(decoded.seen) if seen is not None]
    require(
        kept, f"{paths[0] if paths else 'no files'}: none of the {len(paths)} image files can be read; replace them"
    )
    facts = facts_of([each for each in decoded.seen if each is not None], shape[1:])
    facts = facts._replace(damaged={str(paths[number]): error.reason for number, error in decoded.damaged.items()})
    out = decoded.pictures if len(kept) == len(paths) else decoded.pictures[kept]
    if reading.raw:
        facts = facts._replace(span=(float(out.min()), float(out.max())))
    return FilesRead(torch.from_numpy(out).permute(0, 3, 1, 2).contiguous(), kept, facts)


def decode_files(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    resize: bool,
    reading: Reading,
    content_of: Callable[[int], bytes | None] | None = None,
) -> Decoded:
    """Decode image files, those that may be left out among them; see `read_files`.

    Raises:
        InputError: files cannot be read or have another size; the message names ten of them.
    """
    channels, rows, columns = shape
    require_channels(channels, paths)
    out = _room_for(len(paths), shape, reading.dtype)
    damaged: dict[int, UnreadableImageError] = {}
    misfits: dict[int, tuple[int, int]] = {}
    most = MOST_DAMAGED if reading.skip_damaged else NAMED

    def read(number: int) -> Seen | None:
        if len(damaged) > most or len(misfits) > NAMED:
            return None  # there are more than a message needs
        try:
            content = None if content_of is None else content_of(number)
            picture, seen = read_picture(paths[number], channels, (rows, columns), resize, reading, content)
        except UnreadableImageError as error:
            damaged[number] = error
            return None
        if picture is None:
            misfits[number] = seen.size
        else:
            out[number] = picture.reshape(rows, columns, channels)
        return seen

    # of Pillow, about metadata that nothing here reads
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:
        found = list(pool.map(read, range(len(paths))))
    damaged = {number: damaged[number] for number in sorted(damaged)}
    if damaged and (len(damaged) > most or not reading.skip_damaged):
        raise unreadable(list(damaged.values()))
    if misfits:
        raise misfit(paths, misfits, (rows, columns))
    return Decoded(out, found, damaged)


def require_channels(channels: int, paths: Sequence[Path]) -> None:
    """Refuse to make pictures of image files that are neither gray nor color.

    Raises:
        InputError: names the number of channels.
    """
    require(
        channels in (1, 3),
        f"{paths[0] if paths else 'no files'}: the network takes images of {channels} channels, and image files are "
        "gray or color; give arrays, --data.images FILE.npz",
    )


def _room_for(count: int, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    """Return an array ``(N, H, W, C)`` for pictures.

    Raises:
        InputError: the machine has no memory for them.
    """
    channels, rows, columns = shape
    size = count * prod(shape) * dtype.itemsize / 2**30
    try:
        return np.empty((count, rows, columns, channels), dtype)
    except (MemoryError, ValueError) as error:
        raise InputError(
            f"{count:,} images of {rows}x{columns} pixels take {size:,.0f} GiB, more than there "
            "is; scale them, all images of an image folder with --data.image_size"
        ) from error


def unreadable(errors: Sequence[UnreadableImageError]) -> InputError:
    """Return one error for files that cannot be read, naming ten of them."""
    if len(errors) == 1:
        return errors[0]
    folder = os.path.commonpath([error.path.parent for error in errors])
    many = f"more than {NAMED}" if len(errors) > NAMED else f"{len(errors)}"
    named = some_of([os.path.relpath(error.path, folder) for error in errors])
    return InputError(
        f"{folder}: {many} image files cannot be read: {named}. The first {errors[0].reason[:150]}; "
        "replace or remove them, or leave them out with --data.skip_damaged true"
    )


def misfit(paths: Sequence[Path], misfits: dict[int, tuple[int, int]], expected: tuple[int, int]) -> InputError:
    """Return an error for files of another size than expected, by their numbers; it names ten of them."""
    first, *others = sorted(misfits)
    also = f" (so are {some_of([paths[n].name for n in others])})" if others else ""
    rows, columns = misfits[first]
    return InputError(
        f"{paths[first]}: {rows}x{columns} pixels; expected {expected[0]}x{expected[1]} like the others{also}; scale "
        "it, or all images of an image folder with --data.image_size"
    )
