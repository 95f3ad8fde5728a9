"""Arrays as the pictures that data modules keep, ``(N, C, H, W)``, whatever layout and type they have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.data.deep_pictures import scaled
from capsule_lightning.data.named_arrays import ANY, PAIRS, NamedArrays, StoredArray
from capsule_lightning.data.pictures import Reading
from capsule_lightning.errors import InputError, require, some_of

ARRAYS = (".npz", ".npy", ".mat", ".h5", ".hdf5")
"""How the names of files of arrays end."""
MOST_CHANNELS = 4
"""Most channels that a dimension is taken for without being asked."""
_ROUNDING = 1e-3
"""How far from a whole number 255 times a float may be that was a byte; float32 is off by 1e-5, and float16 by 0.06."""


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
    """How values become pictures.

    Attributes:
        factor: what they are multiplied by before they are rounded to bytes.
        between: the values that become 0 and 1, if pictures are floats; None for bytes.
        note: what is done, for a person; empty if it is nothing.
    """

    factor: float
    between: tuple[float, float] | None
    note: str

    @property
    def dtype(self) -> torch.dtype:
        """Type of the pictures."""
        return torch.uint8 if self.between is None else torch.float32

    def coded(self, values: np.ndarray, invert: bool) -> np.ndarray:
        """Return values as uint8 or float32, dark and light exchanged on demand."""
        if self.between is not None:
            return scaled(values, self.between, invert)
        if values.dtype.kind == "f" or self.factor != 1:
            values = np.rint(values.astype(np.float64) * self.factor)
        pixels = values.astype(np.uint8, copy=False)
        return 255 - pixels if invert else pixels


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


def coding_of(arrays: Sequence[StoredArray], values: tuple[float, float] | None = None) -> Coding:
    """Decide how the values of arrays become pictures, the same way for all of them, so that no value is cut off.

    Bytes, and what is the same in bytes, are kept as bytes; everything else as floats. Bytes and truth values are not
    looked at.

    Args:
        arrays: images of one set, those to train on first.
        values: those that become 0 and 1; None for 0 and 1 if the images to train on have floats from 0 to 1, for 0 and
            255 if they have numbers from 0 to 255, and else for the smallest and the largest of them.

    Raises:
        InputError: types differ or are not numbers; some values are not finite.
    """
    first = arrays[0]
    for array in arrays:
        if array.dtype.kind not in "buif":
            raise InputError(
                f"{array.title}: holds {array.dtype}; expected images as numbers: integers, floats or bool"
            )
        if array.dtype != first.dtype:
            raise InputError(
                f"{array.title}: holds {array.dtype}, and {first.title} {first.dtype}; expected one type; convert one"
            )
    if values is None and first.dtype == np.uint8:
        return Coding(1, None, "")
    if values is None and first.dtype.kind == "b":
        return Coding(255, None, "bool: true is white, false is black")
    spans = [span_of(array) for array in arrays]
    if values == (0, 1) and first.dtype == np.uint8 and max(span.high for span in spans) > 1:
        return Coding(1, None, "")  # bytes for what was trained on floats from 0 to 1
    low, high = min(span.low for span in spans), max(span.high for span in spans)
    found = f"{first.dtype.name} from {low:.6g} to {high:.6g}"
    if values is None and low >= 0 and high <= 1 and first.dtype.kind == "f" and all(s.in_255ths for s in spans):
        return Coding(255, None, f"{found}, times 255 as bytes")
    if values is None and low >= 0 and high <= 255 and all(span.whole for span in spans):
        return Coding(1, None, f"{found}, taken as bytes")
    least, most = values or usual_range(spans[0], first.dtype)
    return Coding(1, (least, most), f"{found}, as floats: {least:.6g} becomes 0 and {most:.6g} becomes 1")


class Span(NamedTuple):
    """What the values of an array are.

    Attributes:
        low, high: the smallest and the largest.
        whole: whether all are whole numbers.
        in_255ths: whether all are whole numbers if they are multiplied by 255, but for rounding.
    """

    low: float
    high: float
    whole: bool
    in_255ths: bool


def usual_range(span: Span, dtype: np.dtype) -> tuple[float, float]:
    """Return the values that become 0 and 1 if nobody says so, see `coding_of`."""
    if span.low >= 0 and span.high <= 1 and dtype.kind == "f":
        return 0.0, 1.0
    if span.low >= 0 and span.high <= 255:
        return 0.0, 255.0
    return span.low, span.high if span.high > span.low else span.low + 1


def span_of(array: StoredArray) -> Span:
    """Look at all values of an array of numbers.

    Raises:
        InputError: some values are not finite.
    """
    found = []
    for values in array.slices():
        low, high = float(values.min()), float(values.max())
        require(
            np.isfinite(low) and np.isfinite(high),  # both are NaN if a value is
            f"{array.title}: has values that are NaN or infinite; expected numbers; replace them",
        )
        inside = values.dtype.kind == "f" and low >= 0 and high <= 255
        whole = values.dtype.kind != "f" or (inside and bool((values == np.rint(values)).all()))
        in_255ths = inside and high <= 1 and _nearly_whole(values.astype(np.float64) * 255)
        found.append(Span(low, high, whole, in_255ths))
    lows, highs, wholes, parts = zip(*found, strict=True)
    return Span(min(lows), max(highs), all(wholes), all(parts))


def _nearly_whole(values: np.ndarray) -> bool:
    return bool((np.abs(values - np.rint(values)) < _ROUNDING).all())


def pictures_of(parts: Sequence[tuple[StoredArray, Tensor]], layout: Layout, coding: Coding, invert: bool) -> Tensor:
    """Read images and lay them out, a slice at a time: there is never more than the result and a slice.

    Bytes in a file of their own that lie as they should are memory-mapped if all of them are asked for.

    Args:
        parts: arrays, and which of their rows to take, ``(M)`` int64, ascending.
        layout: of all of them.
        coding: of all of them.
        invert: exchange dark and light.

    Returns:
        ``(N, C, H, W)`` uint8 or float32, as the coding says, part after part.

    Raises:
        InputError: a file is damaged, or the machine has no memory for the images.
    """
    first, places = parts[0]
    if len(parts) == 1 and len(places) == first.shape[0] and first.dtype == np.uint8 and coding.between is None:
        whole = first.mapped()
        if whole is not None and not invert and (layout.channels != "last" or layout.shape[0] == 1):
            return torch.from_numpy(layout.laid(whole))
    count = sum(len(places) for _, places in parts)
    try:
        out = torch.empty(count, *layout.shape, dtype=coding.dtype)
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
            out[end : end + len(here)] = torch.from_numpy(coding.coded(layout.laid(values[here.numpy()]), invert))
            end += len(here)
    return out


class ArrayPictures(NamedTuple):
    """Images in a file of arrays, none of which have been read.

    Attributes:
        array: ``(N, ...)``.
        layout, coding: how it becomes pictures.
        invert: whether dark and light are exchanged.
    """

    array: StoredArray
    layout: Layout
    coding: Coding
    invert: bool

    def read(self) -> Tensor:
        """Return all pictures ``(N, C, H, W)``, uint8 or, if they are not bytes, float32."""
        every = torch.arange(self.array.shape[0])
        return pictures_of([(self.array, every)], self.layout, self.coding, self.invert)


def find_array_pictures(path: Path, shape: tuple[int, int, int], reading: Reading) -> ArrayPictures:
    """Find the images for ``predict`` in a file of arrays.

    Args:
        path: an ``.npy`` file, or an ``.npz``, MATLAB or HDF5 file with one array or with images under one of the usual
            names, of which those to test on are taken.
        shape: ``(C, H, W)`` of each, with the channels first or last, or without them if there is one.
        reading: which values become 0 and 1, if the network was not trained on bytes; whether dark and light are
            exchanged.

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
    if images.is_matlab and images.shape[:-1] in layouts:
        images = images.last_first()
    found = layouts.get(images.shape[1:])
    if found is None:
        raise InputError(
            f"{images.title}: has images {images.shape[1:]}; expected {(rows, columns, channels)} (rows, columns, "
            "channels), as the network was trained on; scale them"
        )
    return ArrayPictures(images, Layout(shape, found), _like_training(images, reading), reading.invert)


def _like_training(images: StoredArray, reading: Reading) -> Coding:
    """Return how the values of images become pictures like those that a network was trained on.

    Raises:
        InputError: they have another range than bytes, and the network was trained on bytes.
    """
    if reading.values is not None:
        return coding_of([images], reading.values)
    if (images.dtype.kind, images.dtype.itemsize) == ("u", 2) and span_of(images).high > 255:
        return coding_of([images], (0, 65535))
    coding = coding_of([images])
    if coding.between not in (None, (0, 1), (0, 255)):
        found = coding.note.partition(",")[0]
        raise InputError(
            f"{images.title}: {found}; expected 0 to 1 or 0 to 255, as the network was trained on; scale them"
        )
    return coding
