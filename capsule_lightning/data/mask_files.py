"""Read masks from image files: one whole number for each pixel, as it is in the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from capsule_lightning.data.pictures import Reading, open_image, orientation
from capsule_lightning.errors import InputError, require

if TYPE_CHECKING:
    from PIL import Image

LOSSY = ("JPEG", "MPO")
"""Formats that change values, so that a mask kept in one has values that nobody drew."""


def read_mask(path: Path, reading: Reading) -> np.ndarray:
    """Return the values of a mask.

    Of a palette these are the numbers of its colors, of gray the values of 1, 8, 16 or 32 bits. Gray that is kept as
    color is taken, too.

    Args:
        path: a PNG, TIFF, BMP, GIF, WEBP or PPM file.
        reading: how many pixels it may have.

    Returns:
        ``(H, W)`` int32, as a person sees it, upright.

    Raises:
        InputError: it cannot be read, is a JPEG, has colors or several pages, or values that are no whole numbers.
    """
    with open_image(path, reading) as image:
        require(
            image.format not in LOSSY,
            f"{path}: a mask as JPEG, which changes its values; save it as PNG",
        )
        require(getattr(image, "n_frames", 1) == 1, f"{path}: a mask of several pages or frames; expected one")
        image.load()
        values = _numbers(image, path)
        turn = orientation(image)
    return np.ascontiguousarray(_upright(values, turn))


def read_masks(paths: Sequence[Path], reading: Reading) -> Iterator[np.ndarray]:
    """Yield the values of masks in their order, see `read_mask`; several are read at a time."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        ahead = 64  # so that no more are held at a time
        for start in range(0, len(paths), ahead):
            yield from pool.map(lambda path: read_mask(path, reading), paths[start : start + ahead])


def _numbers(image: Image.Image, path: Path) -> np.ndarray:
    """The values of a decoded image."""
    if image.mode == "P" or image.mode == "L" or image.mode == "1" or image.mode.startswith("I"):
        values = np.asarray(image)
    elif image.mode == "F":
        values = np.asarray(image)
        require(np.isfinite(values).all() and (values == values.round()).all(), f"{path}: {_FRACTIONS}")
    else:
        parts = np.asarray(image)
        gray = image.mode in ("RGB", "RGBA") and (parts[..., :1] == parts[..., :3]).all()
        opaque = image.mode == "RGB" or (image.mode == "RGBA" and (parts[..., 3] == 255).all())
        if not (gray and opaque):
            raise InputError(
                f"{path}: a mask in colors ({image.mode}): expected one number for each pixel, as in gray or with a "
                "palette; save it so"
            )
        values = parts[..., 0]
    least, most = int(values.min()), int(values.max())
    require(
        least >= -(2**31) and most < 2**31,
        f"{path}: values from {least} to {most}: expected whole numbers of at most 31 bits",
    )
    return values.astype(np.int32)


_FRACTIONS = "a mask with fractions: expected a whole number for each pixel"


def _upright(values: np.ndarray, turn: int) -> np.ndarray:
    """Values as EXIF says that they are seen; ``turn`` is 1 to 8."""
    if turn >= 5:
        values = values.T
    if turn in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if turn in (2, 3, 6, 7) else values


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return values ``(H, W)`` at another size, each that of the nearest pixel.

    Args:
        values: of a mask.
        size: rows and columns.
    """
    if values.shape == size:
        return values
    places = [((np.arange(n) + 0.5) * m / n).astype(np.int64) for n, m in zip(size, values.shape, strict=True)]
    return values[np.ix_(*places)]
