"""A store whose pictures stay on disk: threads read the next batches while one is trained on.

Order, resume and random numbers stay those of `ExactLoader`, which asks for pictures by their numbers. Libraries that
stream (webdataset, litdata, mosaicml-streaming) bring an order of their own, from a buffer or by process and worker,
and copies of the data in a form of their own: files that are read by number are simpler. Threads do as well as
processes: Pillow, the file system and the checksum work without Python's lock, and no picture is copied to another
process.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.data.pictures import UnreadableImageError
from capsule_lightning.data.statistics import Measures
from capsule_lightning.errors import printable, require

AHEAD = 3
"""Batches that are read while one is trained on."""
_LOG = logging.getLogger(__name__)  # of every process: each reads other files


class Pictures(Protocol):
    """Pictures on disk, by their numbers."""

    def read(self, number: int, out: np.ndarray) -> None:
        """Read a picture into ``out (C, H, W)`` of its type; called by several threads.

        Raises:
            UnreadableImageError: its file cannot be read.
            InputError: it is damaged in another way.
        """


class _Batch(NamedTuple):
    """A batch that is being read.

    Attributes:
        inputs: ``(B, C, H, W)``, complete when all parts are.
        parts: each gives the places in the batch that could not be read.
    """

    inputs: Tensor
    parts: list[Future[list[int]]]


class StreamedStore:
    """Pictures that are read when asked for; memory holds a few batches, and a few numbers for each picture.

    Args:
        pictures: where they are.
        numbers: ``(N)`` int64, which of the pictures are in the store.
        labels: ``(N)`` int64.
        shape: ``(C, H, W)`` of a picture.
        skip_damaged: leave a file that cannot be read any more out of its batch, and say so, instead of stopping.
        workers: threads that read; None for as many as this process has processors.
        dtype: of the pictures.
    """

    def __init__(
        self,
        pictures: Pictures,
        numbers: Tensor,
        labels: Tensor,
        shape: tuple[int, int, int],
        *,
        skip_damaged: bool = False,
        workers: int | None = None,
        dtype: torch.dtype = torch.uint8,
    ) -> None:
        self.pictures, self.numbers, self.labels, self.shape, self.dtype = pictures, numbers, labels, shape, dtype
        self.skip_damaged, self.workers = skip_damaged, workers or processors()

    def __len__(self) -> int:
        """Return the number of pictures, N."""
        return len(self.labels)

    def take(self, indices: Tensor) -> Tensor:
        """Return the pictures ``(B, C, H, W)`` at ``indices (B)``, all of them.

        Raises:
            InputError: one cannot be read.
        """
        out = torch.empty(len(indices), *self.shape, dtype=self.dtype)
        numbers = self.numbers[indices].tolist()
        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(self.pictures.read, numbers, out.numpy()))
        return out

    def on(self, device: torch.device) -> StreamedStore:
        """Return the store itself: its batches are put together on the host."""
        return self

    def in_turn(self, wanted: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the pictures of batches of indices, read ahead; see `ReadingAhead`."""
        waiting: deque[_Batch] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for indices in wanted:
                    waiting.append(self._begin(pool, self.numbers[indices].tolist()))
                    if len(waiting) > AHEAD:
                        yield self._finish(waiting.popleft())
                while waiting:
                    yield self._finish(waiting.popleft())
            finally:  # also when training stops in mid-epoch
                for part in (part for batch in waiting for part in batch.parts):
                    part.cancel()

    def _begin(self, pool: ThreadPoolExecutor, numbers: list[int]) -> _Batch:
        inputs = torch.empty(len(numbers), *self.shape, dtype=self.dtype)
        out, size = inputs.numpy(), max(1, len(numbers) // (8 * self.workers))
        parts = [range(start, min(start + size, len(numbers))) for start in range(0, len(numbers), size)]
        return _Batch(inputs, [pool.submit(self._read, numbers, out, part) for part in parts])

    def _read(self, numbers: list[int], out: np.ndarray, places: range) -> list[int]:
        """Read pictures of a batch, and return the places of those that are left out."""
        missing = []
        for place in places:
            try:
                self.pictures.read(numbers[place], out[place])
            except UnreadableImageError as error:
                if not self.skip_damaged:
                    raise
                _LOG.warning("%s", printable(f"{error.path} {error.reason}: left out (--data.skip_damaged)"))
                missing.append(place)
        return missing

    def _finish(self, batch: _Batch) -> tuple[Tensor, Tensor | None]:
        missing = [place for part in batch.parts for place in part.result()]
        if not missing:
            return batch.inputs, None
        kept = torch.tensor(sorted(set(range(len(batch.inputs))) - set(missing)), dtype=torch.int64)
        require(len(kept), f"none of the {len(missing)} images of a batch can be read; see that they are there")
        return batch.inputs[kept], kept


class MeasuredPictures(StreamedStore):
    """Pictures that have been measured when they were first read, see `MeasuredStore`.

    Args:
        pictures, numbers, labels, shape: see `StreamedStore`.
        measures: of the N pictures.
        skip_damaged, workers: see `StreamedStore`.
    """

    def __init__(
        self,
        pictures: Pictures,
        numbers: Tensor,
        labels: Tensor,
        shape: tuple[int, int, int],
        measures: Measures,
        skip_damaged: bool = False,
        workers: int | None = None,
    ) -> None:
        super().__init__(pictures, numbers, labels, shape, skip_damaged=skip_damaged, workers=workers)
        self.measures, self.pixels = measures, shape[1] * shape[2]


def processors() -> int:
    """Return the number of processors that this process may use, its share if a launcher has started several."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, own // int(beside)) if beside.isdecimal() and int(beside) else own
