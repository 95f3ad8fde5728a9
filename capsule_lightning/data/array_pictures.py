"""Arrays as the pictures that data modules keep: ``(N, C, H, W)`` uint8, whatever layout and type they have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.data.named_arrays import ANY, PAIRS, NamedArrays, StoredArray
from capsule_lightning.errors import InputError, require, some_of

ARRAYS = (".npz", ".npy")
"""How the names of files of arrays end."""
MOST_CHANNELS = 4
"""Most channels that a dimension is taken for without being asked."""
_WIDE = 1 / 257
"""What makes uint16 a byte: its upper 8 bits, rounded."""


class Layout(NamedTuple):
    """Where the dimensions of an image are.

    Attributes:
        shape: ``(C, H, W)``.
        channels: ``none``, ``last`` or ``first``: where the channels are in the array.
    """

    shape: tuple[int, int, int]
    channels: str

    def in_words(self) -> str:
        """Return what was decided."""
        known = {"none": "(images, rows, columns)", "last": "(images, rows, columns, channels)"}
        return known.get(self.channels, "(images, channels, rows, columns)")

    def laid(self, values: np.ndarray) -> np.ndarray:
        """Return a view ``(n, C, H, W)`` of values in this layout."""
        return np.moveaxis(values, -1, 1) if self.channels == "last" else values.reshape(-1, *self.shape)


class Coding(NamedTuple):
    """How values become bytes.

    Attributes:
        factor: what they are multiplied by before they are rounded; 1 to take them as they are.
        note: what is done, for a person; empty if it is nothing.
    """

    factor: float
    note: str

    def coded(self, values: np.ndarray) -> np.ndarray:
        """Return values as uint8."""
        if values.dtype == np.uint8:
            return values
        if values.dtype.kind == "f" or self.factor != 1:
            values = np.rint(values.astype(np.float64) * self.factor)
        return values.astype(np.uint8)


def layout_of(array: StoredArray, channels_last: bool | None) -> Layout:
    """Decide where the dimensions of images are.

    Args:
        array: ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``.
        channels_last: whether the channels of four dimensions are last, and not first; None to judge by their number:
            at most 4, and fewer than rows and columns.

    Raises:
        InputError: there are other dimensions, or it cannot be judged.
    """
    if len(array.shape) == 3:
        return Layout((1, array.shape[1], array.shape[2]), "none")
    if len(array.shape) != 4:
        raise InputError(
            f"{array.title}: has {len(array.shape)} dimensions, {array.shape}; expected images (N, H, W), (N, H, W, C) "
            "or (N, C, H, W); reshape it"
        )
    _, first, middle, last = array.shape
    if channels_last is None:
        is_last = last <= MOST_CHANNELS and last < min(first, middle)
        is_first = first <= MOST_CHANNELS and first < min(middle, last)
        require(
            is_last or is_first,
            f"{array.title}: cannot tell which of {array.shape} are the channels; set --data.channels_last to true or "
            "false",
        )
        channels_last = is_last
    return Layout((last, first, middle), "last") if channels_last else Layout((first, middle, last), "first")


def require_layout(array: StoredArray, layout: Layout) -> None:
    """Refuse images that are not laid out as others are.

    Raises:
        InputError: the shape is another one.
    """
    channels, *size = layout.shape
    expected = {"none": size, "last": [*size, channels]}.get(layout.channels, [channels, *size])
    if [*array.shape[1:]] != expected:
        raise InputError(
            f"{array.title}: has images {array.shape[1:]}; expected {tuple(expected)} like those to train on; bring "
            "them to one size"
        )


def coding_of(arrays: Sequence[StoredArray]) -> Coding:
    """Decide how the values of arrays become bytes, the same way for all of them.

    Bytes and truth values are not looked at; of all others the smallest and the largest are found.

    Args:
        arrays: images of one set.

    Raises:
        InputError: types differ or are not numbers; values are neither within 0 to 1 nor within 0 to 255, nor 16 bits.
    """
    first = arrays[0]
    for array in arrays:
        if array.dtype.kind not in "buif":
            raise InputError(
                f"{array.title}: holds {array.dtype}; expected images as numbers: uint8, uint16, bool, floats from 0 "
                "to 1 or numbers from 0 to 255"
            )
        if array.dtype != first.dtype:
            raise InputError(
                f"{array.title}: holds {array.dtype}, and {first.title} {first.dtype}; expected one type; convert one"
            )
    if first.dtype == np.uint8:
        return Coding(1, "")
    if first.dtype.kind == "b":
        return Coding(255, "bool: true is white, false is black")
    spans = [span_of(array) for array in arrays]
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    found = f"{first.dtype.name} from {low:.6g} to {high:.6g}"
    if first.dtype.kind == "f" and round(low * 255) >= 0 and round(high * 255) <= 255:  # within rounding
        return Coding(255, f"{found}, times 255 and rounded to bytes")
    if (first.dtype.kind, first.dtype.itemsize) == ("u", 2) and high > 255:
        return Coding(_WIDE, f"{found}, of which the upper 8 bits are kept (divided by 257, rounded)")
    if low < 0 or high > 255:
        raise InputError(
            f"{first.title}: {first.dtype.name} from {low:.6g} to {high:.6g}: expected 0 to 1 or 0 to 255; scale them"
        )
    return Coding(1, f"{found}, {'rounded to' if first.dtype.kind == 'f' else 'taken as'} bytes")


def span_of(array: StoredArray) -> tuple[float, float]:
    """Return the smallest and the largest value of an array of numbers.

    Raises:
        InputError: some values are not finite.
    """
    lows, highs = [], []
    for values in array.slices():
        low, high = float(values.min()), float(values.max())
        require(
            np.isfinite(low) and np.isfinite(high),  # both are NaN if a value is
            f"{array.title}: has values that are NaN or infinite; expected 0 to 1 or 0 to 255; replace them",
        )
        lows.append(low)
        highs.append(high)
    return min(lows), max(highs)


def pictures_of(parts: Sequence[tuple[StoredArray, Tensor]], layout: Layout, coding: Coding, invert: bool) -> Tensor:
    """Read images and lay them out as bytes, a slice at a time: there is never more than the result and a slice.

    Bytes in a file of their own that lie as they should are memory-mapped if all of them are asked for.

    Args:
        parts: arrays, and which of their rows to take, ``(M)`` int64, ascending.
        layout: of all of them.
        coding: of all of them.
        invert: exchange dark and light.

    Returns:
        ``(N, C, H, W)`` uint8, part after part.

    Raises:
        InputError: a file is damaged, or the machine has no memory for the images.
    """
    first, places = parts[0]
    if len(parts) == 1 and len(places) == first.shape[0] and first.dtype == np.uint8:
        whole = first.mapped()
        if whole is not None and not invert and (layout.channels != "last" or layout.shape[0] == 1):
            return torch.from_numpy(layout.laid(whole))
    count = sum(len(places) for _, places in parts)
    try:
        out = torch.empty(count, *layout.shape, dtype=torch.uint8)
    except RuntimeError as error:
        raise InputError(
            f"{first.path}: {count:,} images {layout.shape} are more than there is memory for; take fewer"
        ) from error
    end = 0
    for array, places in parts:
        start = 0
        for values in array.slices():
            here = places[(places >= start) & (places < start + len(values))] - start
            start += len(values)
            pixels = torch.from_numpy(coding.coded(layout.laid(values[here.numpy()])))
            out[end : end + len(here)] = 255 - pixels if invert else pixels
            end += len(here)
    return out


class ArrayPictures(NamedTuple):
    """Images in a file of arrays, none of which have been read.

    Attributes:
        array: ``(N, ...)``.
        layout, coding: how it becomes pictures.
    """

    array: StoredArray
    layout: Layout
    coding: Coding

    def read(self, invert: bool) -> Tensor:
        """Return all pictures ``(N, C, H, W)`` uint8, dark and light exchanged if ``invert``."""
        every = torch.arange(self.array.shape[0])
        return pictures_of([(self.array, every)], self.layout, self.coding, invert)


def find_array_pictures(path: Path, shape: tuple[int, int, int]) -> ArrayPictures:
    """Find the images for ``predict`` in a file of arrays.

    Args:
        path: an ``.npy`` file, or an ``.npz`` file with one array or with images under one of the usual names, of which
            those to test on are taken.
        shape: ``(C, H, W)`` of each, with the channels first or last, or without them if there is one.

    Raises:
        InputError: there are no such images.
    """
    arrays = NamedArrays(path, "--data.images")
    usual = arrays.names if len(arrays.names) == 1 else [images.replace(ANY, "test") for images, _ in PAIRS]
    name = next((name for name in usual if name in arrays), None)
    if name is None:
        raise InputError(f"{path}: expected one array, images or test_images; there are {some_of(arrays.names)}")
    images = arrays[name]
    channels, rows, columns = shape
    layouts: dict[tuple[int, ...], str] = {(rows, columns, channels): "last", shape: "first"}
    layouts |= {(rows, columns): "none"} if channels == 1 else {}
    found = layouts.get(images.shape[1:])
    if found is None:
        raise InputError(
            f"{images.title}: has images {images.shape[1:]}; expected {(rows, columns, channels)} (rows, columns, "
            "channels), as the network was trained on; scale them"
        )
    return ArrayPictures(images, Layout(shape, found), coding_of([images]))
