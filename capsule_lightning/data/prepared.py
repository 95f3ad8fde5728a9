"""Decoded data sets on disk: plain NumPy files, memory-mapped, so that the processes of a machine share one copy."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.errors import InputError


class Images(NamedTuple):
    """A stored set: ``images (N, C, H, W)`` uint8 and ``labels (N)`` int64."""

    images: Tensor
    labels: Tensor


def load(folder: Path, fingerprint: str | None = None) -> Images | None:
    """Map the set in ``folder``; None where there is none, or one made from other files than ``fingerprint`` says.

    Raises:
        InputError: a set of which something is missing or torn.
    """
    try:
        made_from = json.loads((folder / "source.json").read_text())["fingerprint"]
    except OSError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from error
    if fingerprint is not None and fingerprint != made_from:
        return None
    # copy-on-write: PyTorch warns about arrays it could not write to, and nothing here writes
    try:
        images = np.load(folder / "images.npy", mmap_mode="c")
        return Images(torch.from_numpy(images), torch.from_numpy(np.load(folder / "labels.npy")))
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(
        f"{folder}: the prepared set is damaged ({reason}); remove this folder, it is made anew from its source"
    )


def save(folder: Path, data: Images, fingerprint: str | None = None) -> bool:
    """Write a set so that it is there whole or not at all; False where the place cannot be written."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError:
        return False
    try:
        np.save(staging / "images.npy", data.images.numpy())
        np.save(staging / "labels.npy", data.labels.numpy())
        (staging / "source.json").write_text(json.dumps({"fingerprint": fingerprint}))
        staging.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(staging, folder)
        return True
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        return False
