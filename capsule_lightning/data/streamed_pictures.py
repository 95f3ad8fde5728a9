"""Pictures to predict that are read when a batch asks for them, so that memory does not grow with their number."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.array_pictures import ArrayPictures
from capsule_lightning.data.image_files import NAMED, require_channels, unreadable
from capsule_lightning.data.pictures import Reading, UnreadableImageError, open_image
from capsule_lightning.data.sharded_trees import OriginalPictures
from capsule_lightning.data.shards import How
from capsule_lightning.data.streamed_store import StreamedStore, processors
from capsule_lightning.errors import InputError

MOST_HELD = 2**27
"""Bytes of pictures that are read at once; more are streamed."""


def are_many(count: int, shape: tuple[int, int, int], dtype: np.dtype | torch.dtype) -> bool:
    """Return whether ``count`` pictures ``(C, H, W)`` of a type are too many to be held in memory."""
    return count * prod(shape) * dtype.itemsize > MOST_HELD


class StreamedFiles(StreamedStore):
    """Image files, each of which is decoded when it is asked for.

    Before the first picture all files are opened, so that what is no image is known before anything is predicted. A
    file that cannot be decoded later on is black if it may be left out, and listed in ``damaged``.

    Args:
        paths: N files.
        labels: ``(N)`` int64, -1 if unknown.
        shape: ``(C, H, W)`` to which every picture is brought; one channel for gray, three for color.
        reading: how files become pictures.

    Attributes:
        damaged: why a file could not be read, by its place.

    Raises:
        InputError: the network takes neither gray nor color; files are no images, and may not be left out.
    """

    def __init__(self, paths: Sequence[Path], labels: Tensor, shape: tuple[int, int, int], reading: Reading) -> None:
        require_channels(shape[0], paths)
        with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(processors()) as pool:
            faults = [fault for fault in pool.map(lambda path: _fault(path, reading), paths) if fault is not None]
        if faults and (not reading.skip_damaged or len(faults) == len(paths)):
            raise unreadable(faults[: NAMED + 1])
        pictures = PicturesToPredict(paths, How(shape, True, reading, Path(), False))
        dtype = torch.from_numpy(np.empty(0, reading.dtype)).dtype
        super().__init__(pictures, torch.arange(len(paths)), labels, shape, dtype=dtype)
        self.damaged = pictures.damaged


class PicturesToPredict(OriginalPictures):
    """Pictures in their files; those of files that cannot be read are black, if they may be left out.

    Args:
        paths: the files.
        how: see `How`.

    Attributes:
        damaged: why a file could not be read, by its number.
    """

    def __init__(self, paths: Sequence[Path], how: How) -> None:
        super().__init__(paths, how)
        self.damaged: dict[int, str] = {}

    @override
    def read(self, number: int, out: np.ndarray) -> None:
        try:
            super().read(number, out)
        except UnreadableImageError as error:
            if not self.how.reading.skip_damaged:
                raise
            self.damaged[number] = error.reason
            out[...] = 0


def _fault(path: Path, reading: Reading) -> UnreadableImageError | None:
    """Return why a file is no image, as far as its first bytes tell."""
    try:
        with open_image(path, reading):
            return None
    except UnreadableImageError as error:
        return error


class StreamedArray:
    """Images in a file of arrays, read a slice at a time; labels are unknown.

    Args:
        pictures: where they are, and how they become pictures.

    Attributes:
        labels: ``(N)`` int64, all -1.
    """

    def __init__(self, pictures: ArrayPictures) -> None:
        self.pictures = pictures
        self.labels = torch.full((len(self),), -1)
        self._slices: Iterator[np.ndarray] = iter(())
        self._slice = np.empty((0,))
        self._start = len(self)  # place of the first row of the slice

    def __len__(self) -> int:
        """Return the number of images, N."""
        return self.pictures.array.shape[0]

    def on(self, device: torch.device) -> StreamedArray:
        """Return itself: files are read on the host."""
        return self

    def take(self, indices: Tensor) -> Tensor:
        """Return the pictures ``(B, C, H, W)`` uint8 or float32 at ``indices (B)``, ascending; going back begins anew.

        Raises:
            InputError: the file is damaged.
        """
        array, layout, coding, invert = self.pictures
        out = torch.empty(len(indices), *layout.shape, dtype=coding.dtype)
        whole = array.mapped()  # anew for each batch: what a mapping has read stays in memory as long as it lives
        filled = 0
        while filled < len(indices):
            if whole is None:
                self._go_to(int(indices[filled]))
                here = indices[filled:]
                here = here[here < self._start + len(self._slice)] - self._start
                values = self._slice[here.numpy()]
            else:
                here, values = indices, whole[indices.numpy()]
            pixels = coding.coded(layout.laid(values), invert)
            out[filled : filled + len(here)] = torch.from_numpy(np.ascontiguousarray(pixels))
            filled += len(here)
        return out

    def _go_to(self, place: int) -> None:
        """Read on to the slice that holds a place."""
        if place < self._start:
            self._slices, self._slice, self._start = self.pictures.array.slices(), self._slice[:0], 0
        while place >= self._start + len(self._slice):
            self._start += len(self._slice)
            following = next(self._slices, None)
            if following is None:
                raise InputError(f"{self.pictures.array.title}: cut short; make the file again")
            self._slice = following
