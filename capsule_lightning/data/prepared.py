"""Decoded data sets on disk: plain NumPy files, memory-mapped so that all processes of a machine share one copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.errors import InputError, first_line
from capsule_lightning.runs.files import make_whole, open_whole


class Images(NamedTuple):
    """A stored data set.

    Attributes:
        images: ``(N, C, H, W)`` uint8.
        labels: ``(N)`` int64.
    """

    images: Tensor
    labels: Tensor


def load(folder: Path, fingerprint: str | None = None) -> Images | None:
    """Memory-map the set in a folder.

    Args:
        folder: where `save` has written it.
        fingerprint: of the files that the set should be made from; None to take any.

    Returns:
        The set, or None if there is none, or one that was made from other files.

    Raises:
        InputError: a part of the set is missing or damaged.
    """
    try:
        made_from = json.loads((folder / "source.json").read_text())["fingerprint"]
    except OSError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from error
    if fingerprint is not None and fingerprint != made_from:
        return None
    # copy-on-write, because PyTorch warns about read-only arrays; nothing here writes to them
    try:
        images = np.load(folder / "images.npy", mmap_mode="c")
        return Images(torch.from_numpy(images), torch.from_numpy(np.load(folder / "labels.npy")))
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"{folder}: the prepared set is damaged ({first_line(error)}); remove this folder, it is made again from its "
        "source"
    )


def save(folder: Path, data: Images, fingerprint: str | None = None) -> bool:
    """Write a set, all of it or nothing.

    Args:
        folder: where to write; a set that is there is replaced.
        data: the set.
        fingerprint: of the files that it is made from.

    Returns:
        False if the folder cannot be written.
    """
    try:
        with make_whole(folder) as staging:
            for name, values in (("images.npy", data.images), ("labels.npy", data.labels)):
                with open_whole(staging / name) as file:
                    np.save(file, values.numpy())
            (staging / "source.json").write_text(json.dumps({"fingerprint": fingerprint}))
    except InputError:
        return False
    return True
