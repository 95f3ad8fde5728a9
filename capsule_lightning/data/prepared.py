"""Decoded data sets on disk: plain NumPy files, memory-mapped so that all processes of a machine share one copy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.data.array_files import Header, map_array, read_header
from capsule_lightning.data.regular_files import kind_of, open_regular
from capsule_lightning.errors import InputError, first_line, require
from capsule_lightning.runs.files import make_whole, open_whole
from capsule_lightning.runs.plain_json import MOST_CHARACTERS, parse_json

MOST_EXAMPLES = 10**8
"""Most examples of a set: what a file says beyond that is not believed."""
SOURCE = "source.json"


class Images(NamedTuple):
    """A stored data set.

    Attributes:
        images: ``(N, C, H, W)`` uint8, or float32 if they have more than 8 bits.
        labels: ``(N)`` int64.
    """

    images: Tensor
    labels: Tensor


def load(folder: Path, fingerprint: str | None = None, columns: int | None = None) -> Images | None:
    """Memory-map the set in a folder.

    Args:
        folder: where `save` has written it.
        fingerprint: of the files that the set should be made from; None to take any.
        columns: K if an example has K numbers instead of a label.

    Returns:
        The set, with labels ``(N)`` or ``(N, K)`` int64; or None if there is none, or one that was made from other
        files.

    Raises:
        InputError: a part of the set is missing or damaged, or is not of such a shape and type.
    """
    found = source(folder)
    if found is None or (fingerprint is not None and fingerprint != found["fingerprint"]):
        return None
    try:
        images, labels = (read_header(folder / name) for name in ("images.npy", "labels.npy"))
        _require_set(images, labels, columns)
        values = map_array(folder / "labels.npy", labels).astype(np.int64)
        # copy-on-write, because PyTorch warns about read-only arrays; nothing here writes to them
        return Images(torch.from_numpy(map_array(folder / "images.npy", images)), torch.from_numpy(values))
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise damaged(folder, first_line(error)) from error


def source(folder: Path) -> dict[str, Any] | None:
    """Return what a set in a folder was made from, and what was met there; None if there is no set.

    Raises:
        InputError: the file that states it is damaged.
    """
    path = folder / SOURCE
    if kind_of(path) != "file":
        return None
    try:
        with open_regular(path) as file:
            content = file.read(MOST_CHARACTERS + 1).decode()
        found = parse_json(content, path)
        if not isinstance(found, dict) or not isinstance(found["fingerprint"], str | None):
            raise TypeError("it states no fingerprint")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder, first_line(error)) from error
    return found


def save(folder: Path, data: Images, fingerprint: str | None = None, met: Mapping[str, Any] | None = None) -> bool:
    """Write a set, all of it or nothing.

    Args:
        folder: where to write; a set that is there is replaced.
        data: the set.
        fingerprint: of the files that it is made from.
        met: plain values about those files, to be kept with the set.

    Returns:
        False if the folder cannot be written.
    """
    try:
        with make_whole(folder) as staging:
            for name, values in (("images.npy", data.images), ("labels.npy", data.labels)):
                with open_whole(staging / name) as file:
                    np.save(file, values.numpy())
            (staging / SOURCE).write_text(json.dumps({"fingerprint": fingerprint, **(met or {})}))
    except InputError:
        return False
    return True


def _require_set(images: Header, labels: Header, columns: int | None) -> None:
    """Refuse arrays that cannot be a set.

    Raises:
        ValueError: types or shapes are others.
    """
    require(
        images.dtype in (np.uint8, np.float32) and len(images.shape) == 4,
        f"images.npy holds {images.shape} {images.dtype}, expected (N, C, H, W) uint8 or float32",
    )
    shape = (images.shape[0],) if columns is None else (images.shape[0], columns)
    require(
        labels.dtype.kind in "iu" and labels.shape == shape,
        f"labels.npy holds {labels.shape} {labels.dtype}, expected {shape} whole numbers",
    )
    require(images.shape[0] <= MOST_EXAMPLES, f"images.npy holds {images.shape[0]:,} images, at most {MOST_EXAMPLES:,}")


def damaged(folder: Path, reason: str) -> InputError:
    """Return an error for a set in a folder that is not as it was written."""
    return InputError(
        f"{folder}: the prepared set is damaged ({reason}); remove this folder, it is made again from its source"
    )
