"""Pictures that are read when a batch asks for them, so that memory does not grow with their number."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.data.array_pictures import Coding, Layout
from capsule_lightning.data.image_files import NAMED, unreadable
from capsule_lightning.data.named_arrays import StoredArray
from capsule_lightning.data.pictures import Reading, UnreadableImageError, open_image, read_picture
from capsule_lightning.errors import InputError, require

MOST_HELD = 2**27
"""Bytes of pictures that are read at once; more are streamed."""


def are_many(count: int, shape: tuple[int, int, int]) -> bool:
    """Return whether ``count`` pictures ``(C, H, W)`` of bytes are too many to be held in memory."""
    return count * prod(shape) > MOST_HELD


class StreamedFiles:
    """Image files, each of which is decoded when it is asked for.

    Before the first picture all files are opened, so that what is no image is known before anything is predicted. A
    file that cannot be decoded later on is black if it may be left out, and listed in ``damaged``.

    Args:
        paths: N files.
        labels: ``(N)`` int64, -1 if unknown.
        shape: ``(C, H, W)`` to which every picture is scaled; one channel for gray, three for color.
        reading: how files become pictures.

    Attributes:
        labels: ``(N)`` int64.
        damaged: why a file could not be read, by its place.

    Raises:
        InputError: the network takes neither gray nor color; files are no images, and may not be left out.
    """

    def __init__(self, paths: Sequence[Path], labels: Tensor, shape: tuple[int, int, int], reading: Reading) -> None:
        require(
            shape[0] in (1, 3),
            f"{paths[0]}: the network takes images of {shape[0]} channels, and image files are gray or color; give "
            "arrays, --data.images FILE.npz",
        )
        self.paths, self.labels, self.shape, self.reading = paths, labels, shape, reading
        self.damaged: dict[int, str] = {}
        with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:
            faults = [fault for fault in pool.map(self._fault, paths) if fault is not None]
        if faults and (not reading.skip_damaged or len(faults) == len(paths)):
            raise unreadable(faults[: NAMED + 1])

    def __len__(self) -> int:
        """Return the number of files, N."""
        return len(self.paths)

    def on(self, device: torch.device) -> StreamedFiles:
        """Return itself: files are decoded on the host."""
        return self

    def take(self, indices: Tensor) -> Tensor:
        """Return the pictures ``(B, C, H, W)`` uint8 of the files at ``indices (B)``.

        Raises:
            InputError: a file cannot be decoded, and may not be left out.
        """
        channels, *size = self.shape
        out = np.zeros((len(indices), *size, channels), dtype=np.uint8)

        def read(n: int, place: int) -> None:
            try:
                picture, _ = read_picture(self.paths[place], channels, (size[0], size[1]), True, self.reading)
            except UnreadableImageError as error:
                if not self.reading.skip_damaged:
                    raise
                self.damaged[place] = error.reason
            else:
                assert picture is not None  # it was scaled
                out[n] = picture.reshape(out[n].shape)

        with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:
            for _ in pool.map(read, range(len(indices)), indices.tolist()):
                pass
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()

    def _fault(self, path: Path) -> UnreadableImageError | None:
        """Return why a file is no image, as far as its first bytes tell."""
        try:
            with open_image(path, self.reading):
                return None
        except UnreadableImageError as error:
            return error


class StreamedArray:
    """Images in a file of arrays, read a slice at a time; labels are unknown.

    Args:
        array: ``(N, ...)``.
        layout, coding: how it becomes pictures.
        invert: exchange dark and light.

    Attributes:
        labels: ``(N)`` int64, all -1.
    """

    def __init__(self, array: StoredArray, layout: Layout, coding: Coding, invert: bool) -> None:
        self.array, self.layout, self.coding, self.invert = array, layout, coding, invert
        self.labels = torch.full((array.shape[0],), -1)
        self._slices: Iterator[np.ndarray] = iter(())
        self._slice = np.empty((0,))
        self._start = len(self)  # place of the first row of the slice

    def __len__(self) -> int:
        """Return the number of images, N."""
        return self.array.shape[0]

    def on(self, device: torch.device) -> StreamedArray:
        """Return itself: files are read on the host."""
        return self

    def take(self, indices: Tensor) -> Tensor:
        """Return the pictures ``(B, C, H, W)`` uint8 at ``indices (B)``, ascending; going back begins anew.

        Raises:
            InputError: the file is damaged.
        """
        out = torch.empty(len(indices), *self.layout.shape, dtype=torch.uint8)
        whole = self.array.mapped()  # anew for each batch: what a mapping has read stays in memory as long as it lives
        filled = 0
        while filled < len(indices):
            if whole is None:
                self._go_to(int(indices[filled]))
                here = indices[filled:]
                here = here[here < self._start + len(self._slice)] - self._start
                values = self._slice[here.numpy()]
            else:
                here, values = indices, whole[indices.numpy()]
            pixels = torch.from_numpy(np.ascontiguousarray(self.coding.coded(self.layout.laid(values))))
            out[filled : filled + len(here)] = 255 - pixels if self.invert else pixels
            filled += len(here)
        return out

    def _go_to(self, place: int) -> None:
        """Read on to the slice that holds a place."""
        if place < self._start:
            self._slices, self._slice, self._start = self.array.slices(), self._slice[:0], 0
        while place >= self._start + len(self._slice):
            self._start += len(self._slice)
            following = next(self._slices, None)
            if following is None:
                raise InputError(f"{self.array.title}: cut short; make the file again")
            self._slice = following
