"""Checkpoint files: no kill tears one, and nothing is trusted to one before it has been verified."""

from __future__ import annotations

import os
import pickle
import socket
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from capsule_lightning.errors import InputError, StoppedError

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
FOLDER = "checkpoints"

PENDING = "gradients_pending"
"""Set in a checkpoint between two batches whose gradients are added up: the first one's are lost with it."""

VERSION = "pytorch-lightning_version"
"""Without which the trainer loads no checkpoint."""
TRAINING_STATE = ("state_dict", "optimizer_states", "loops", "global_step")


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place, onto the disk, and only then moves it there.

    At every moment the place holds nothing or a whole checkpoint, whatever kills the process or fills the disk.
    Loading takes plain values and tensors alone: a checkpoint cannot run code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """See `TorchCheckpointIO.save_checkpoint`.

        Raises:
            StoppedError: the file cannot be written, for lack of space say; what was there before is as it was.
        """
        path = Path(path)
        partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, RuntimeError) as error:  # torch wraps the system's error in one of its own
            with suppress(OSError):
                partial.unlink()
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise StoppedError(
                f"the checkpoint {path} cannot be written ({cause.strerror}); what was saved before is whole. Make "
                "room, then go on with: fit --resume"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """See `TorchCheckpointIO.load_checkpoint`; ``weights_only`` is always true."""
        loaded: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
        return loaded


def require_checkpoint(path: str | Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Refuse a file that is not there, is torn or damaged, or is no checkpoint of a task.

    Args:
        path: of the file.
        needed: keys that the checkpoint must have.

    Returns:
        The checkpoint, its tensors without their data.

    Raises:
        InputError: with the reason.
    """
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "no such checkpoint"
        raise InputError(f"{path}: {what}; expected a file like runs/.../{FOLDER}/{LAST}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not compare check sums
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        found = torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # whatever unpickling meets in a file that is no checkpoint
        code = isinstance(error, pickle.UnpicklingError)  # torch would advise to trust it
        reason = ["it holds more than values"] if code else str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path}: cannot be read as a checkpoint ({reason[0]}); take another one, such as {PREVIOUS}"
        ) from error
    weights = found.get("state_dict") if isinstance(found, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(f"{path}: holds no network; expected a checkpoint that `fit` has written")
    missing = [key for key in needed if key not in found]
    if missing:
        raise InputError(f"{path}: lacks {missing[0]}; expected a checkpoint that `fit` has written")
    return dict(found)


def require_weights(path: str | Path, checkpoint: Mapping[str, Any], task: nn.Module) -> None:
    """Refuse a checkpoint of another network than the task's, before anything is written.

    Raises:
        InputError: naming the first difference.
    """
    other = difference(task, checkpoint["state_dict"])
    if other is not None:
        raise InputError(f"{path}: is of another network: {other}; give the configuration that it was trained with")


def difference(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> str | None:
    """The first name or shape in which weights differ from those of a network; None where there is none."""
    mine = network.state_dict()
    for name in (*mine, *weights):
        here, there = (tuple(s[name].shape) if name in s else "none" for s in (mine, weights))
        if here != there:
            return f"{name} has shape {there} in the checkpoint and {here} in this network"
    return None


def newest_checkpoint(folder: Path, task: nn.Module) -> Path | None:
    """The good checkpoint of a run that is farthest on; what is wrong with each of the others is said.

    What is older than the last state does not count: a run that was taken back to an earlier epoch has left it behind.

    Args:
        folder: of the run's checkpoints.
        task: that should go on from it.

    Returns:
        Its path, or None where there is no checkpoint at all.

    Raises:
        InputError: there are checkpoints, and none can be used.
    """
    good: list[tuple[bool, int, int, bool, Path]] = []
    faults = []
    for path in sorted(folder.glob("*.ckpt")):
        try:
            checkpoint = require_checkpoint(path)
        except InputError as error:
            faults.append(str(error))
            continue
        missing = [key for key in TRAINING_STATE if key not in checkpoint]
        if missing:
            faults.append(f"{path}: is no state of a training run, it lacks {missing[0]}")
        elif other := difference(task, checkpoint["state_dict"]):
            faults.append(f"{path}: is of another network: {other}")
        else:
            whole = not checkpoint.get(PENDING, False)
            good.append((whole, checkpoint["global_step"], path.stat().st_mtime_ns, path.name == LAST, path))
    if faults and not good:
        example = next((fault for fault in faults if LAST in fault), faults[0])
        raise InputError(
            f"{folder} holds {len(faults)} checkpoints and none of them can be used: {example}. Give the configuration "
            "that the run was begun with, or start a new run without --resume"
        )
    for fault in faults:
        rank_zero_warn(f"skipped {fault}")
    if not good:
        return None
    last = next((time for whole, _, time, is_last, _ in good if is_last and whole), 0)
    whole, *_, newest = max(state for state in good if state[2] >= last)
    if not whole:
        rank_zero_warn(f"{newest} was taken within a step whose gradients were still being added up: some are lost")
    return newest


def remove_partial(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left of their checkpoints."""
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)
