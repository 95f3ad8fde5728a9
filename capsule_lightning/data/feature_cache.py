"""Features of images on disk, found by what is in the images: computed once, whatever set or split an image is in.

A cache is a folder of parts, each of which is a file that takes its place whole. So processes may add to it at the same
time, and what was computed before an interruption is kept.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from capsule_lightning.data.loader import fits
from capsule_lightning.runs.files import write_whole

SUFFIX = ".safetensors"


class Part(NamedTuple):
    """Features of some images, memory-mapped.

    Attributes:
        keys: ``(n)`` int64, of the images, see `capsule_lightning.data.statistics.digests`.
        features: ``(n, F, rows, columns)``.
    """

    keys: Tensor
    features: Tensor


class StoredFeatures:
    """The features of N images.

    Args:
        parts: where they are, ``(n, F, rows, columns)`` each.
        part_of: ``(N)`` int64, the part of each image.
        row_of: ``(N)`` int64, its row there.
    """

    def __init__(self, parts: Sequence[Tensor], part_of: Tensor, row_of: Tensor) -> None:
        self.parts, self.part_of, self.row_of = parts, part_of, row_of

    def take(self, indices: Tensor) -> Tensor:
        """Return the features ``(B, F, rows, columns)`` of images ``(B)`` int64, on the device of the parts."""
        indices = indices.to(self.row_of.device)
        rows = self.row_of[indices]
        if len(self.parts) == 1:
            return self.parts[0].index_select(0, rows)
        places, first = self.part_of[indices], self.parts[0]
        found = first.new_empty(len(indices), *first.shape[1:])
        for number in torch.unique(places).tolist():
            mine = (places == number).nonzero()[:, 0]
            found[mine] = self.parts[number].index_select(0, rows[mine])
        return found

    def on(self, device: torch.device) -> StoredFeatures:
        """Return the features in the order of the images on a GPU, if they take little of its memory, else itself."""
        size = self.parts[0][:1].nbytes * len(self.row_of)
        if device.type != "cuda" or not fits(torch.empty(size, dtype=torch.uint8, device="meta"), device):
            return self
        order = torch.arange(len(self.row_of))
        whole = torch.cat([self.take(some).to(device) for some in torch.split(order, 1024)])
        return StoredFeatures([whole], torch.zeros(len(order), dtype=torch.int64), order.to(device))


class FeatureCache:
    """A folder of features of images.

    Args:
        folder: of one backbone and whatever else the features depend on; made if it is not there.
        shape: ``(F, rows, columns)`` of the features of an image.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        self.folder, self.shape = folder, shape
        folder.mkdir(parents=True, exist_ok=True)

    def parts(self) -> list[Part]:
        """Return the parts that are whole; one that cannot be read is as if it were not there."""
        found = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            with suppress(OSError, ValueError, KeyError, safetensors.SafetensorError):
                found.append(_read(path))
        return [part for part in found if tuple(part.features.shape[1:]) == self.shape]

    def find(self, keys: Tensor) -> tuple[StoredFeatures | None, Tensor]:
        """Look images up.

        Args:
            keys: ``(N)`` int64.

        Returns:
            Their features, if all are there; and the places ``(M)`` int64 of images whose features are not, each key
            once.
        """
        parts = self.parts()
        known: dict[int, tuple[int, int]] = {}
        for number, part in enumerate(parts):
            known |= {key: (number, row) for row, key in enumerate(part.keys.tolist())}
        wanted = keys.tolist()
        missing = {key: place for place, key in reversed(list(enumerate(wanted))) if key not in known}
        if missing:
            return None, torch.tensor(sorted(missing.values()), dtype=torch.int64)
        where = torch.tensor([known[key] for key in wanted], dtype=torch.int64).view(-1, 2)
        found = StoredFeatures([part.features for part in parts], where[:, 0], where[:, 1])
        return found, torch.empty(0, dtype=torch.int64)

    def add(self, keys: Tensor, features: Tensor) -> None:
        """Write a part.

        Args:
            keys: ``(n)`` int64.
            features: ``(n, F, rows, columns)``.

        Raises:
            InputError: it cannot be written.
        """
        content = safetensors.torch.save({"keys": keys.contiguous(), "features": features.cpu().contiguous()})
        name = blake2b(keys.numpy().tobytes(), digest_size=8).hexdigest()
        write_whole(self.folder / f"{name}{SUFFIX}", content, remedy="choose another folder")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait until no other process adds to the cache, so that none computes what another is computing.

        Where the file system has no locks they may: each writes whole parts all the same.
        """
        with (self.folder / ".held").open("a") as file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _read(path: Path) -> Part:
    with safetensors.safe_open(path, framework="pt") as file:
        part = Part(file.get_tensor("keys"), file.get_tensor("features"))
    if part.keys.dtype != torch.int64 or part.features.ndim != 4 or part.keys.shape != part.features.shape[:1]:
        raise ValueError("keys and features do not fit each other")
    return part
