"""Which examples a run trains, validates and tests on, as plain values that its checkpoints hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from capsule_lightning.errors import require

KEY = "split"
"""Under which a data module's state has the record."""


class SplitRecord(NamedTuple):
    """The split of a run.

    Attributes:
        seed: of the split, the order and the augmentation.
        val: ``(V)`` int64, the examples to validate on: keys of files, see `file_keys`, or places in the training set.
        size: number of the training set's examples, those to validate on included.
        labels: digest of their labels.
        files: for examples that are files, by ``train`` and ``test``, ``(N, 2)`` int64: key and digest of the picture
            of each; empty for others.
    """

    seed: int
    val: Tensor
    size: int
    labels: str
    files: Mapping[str, Tensor]

    def plain(self) -> dict[str, Any]:
        """Return the record as values that a checkpoint can hold."""
        return {**self._asdict(), "files": dict(self.files)}


def read_record(value: Any) -> SplitRecord:
    """Return the record of a checkpoint.

    Raises:
        InputError: it is not one that `SplitRecord.plain` has made.
    """
    try:
        record = SplitRecord(**value)
        good = all(type(number) is int for number in (record.seed, record.size)) and type(record.labels) is str
        good &= _whole(record.val, 1) and set(record.files) <= {"train", "test"}
        good &= all(_whole(table, 2) and table.shape[1] == 2 for table in record.files.values())
        good &= 0 <= record.seed < 2**32
    except (TypeError, AttributeError):
        good = False
    require(good, "the checkpoint's record of the split cannot be used; take another checkpoint, such as previous.ckpt")
    return record


def _whole(tensor: Any, dims: int) -> bool:
    return isinstance(tensor, Tensor) and tensor.ndim == dims and tensor.dtype == torch.int64 and not tensor.is_meta


def digest_of(labels: Tensor) -> str:
    """Return a digest of labels ``(N)``."""
    return blake2b(labels.cpu().long().numpy().tobytes(), digest_size=16).hexdigest()


def file_keys(names: Iterable[PurePath | str]) -> Tensor:
    """Return a number ``(N)`` int64 for each file, from its path relative to the data's folder."""
    hashes = (blake2b(os.fsencode(os.fspath(name).replace(os.sep, "/")), digest_size=8).digest() for name in names)
    return torch.tensor([int.from_bytes(each, signed=True) for each in hashes], dtype=torch.int64)


def parted(keys: Tensor, val: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of the examples to train on and of those to validate on.

    Args:
        keys: ``(N)`` int64, keys of the training set's examples.
        val: ``(V)`` int64, keys of those to validate on.
    """
    held_out = torch.isin(keys, val)
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]


def changes(recorded: Tensor, found: Tensor) -> tuple[int, int, int, int]:
    """Compare files with those of the record, each ``(N, 2)``.

    Returns:
        How many are the same, have another content, are gone, and are new.
    """
    then, now = dict(recorded.tolist()), dict(found.tolist())
    same = sum(now.get(key) == content for key, content in then.items())
    gone, new = sum(key not in now for key in then), sum(key not in then for key in now)
    return same, len(then) - gone - same, gone, new
