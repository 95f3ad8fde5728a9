"""Checkpoint files: written so that no kill leaves half of one, and verified before they are used."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from typing_extensions import override

from capsule_lightning.errors import InputError, StoppedError, first_line, require
from capsule_lightning.runs.files import open_whole

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
FOLDER = "checkpoints"

PENDING = "gradients_pending"
"""Set in a checkpoint taken between two batches whose gradients are accumulated: those of the first are lost."""

TRAINED_ON = "trained_on"
"""Key of what a network was trained on, see `capsule_lightning.data.trained_on`; checkpoints of before lack it."""

VERSION = "pytorch-lightning_version"
"""Key without which the trainer does not load a checkpoint."""
TRAINING_STATE = ("state_dict", "optimizer_states", "loops", "global_step")


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoint plugin that writes beside the final place, flushes to the disk, and only then moves the file there.

    At every moment the place holds nothing or a whole checkpoint, whatever kills the process or fills the disk.
    Only plain values and tensors are loaded, so that a checkpoint cannot run code.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save a checkpoint.

        Raises:
            StoppedError: the file cannot be written, for example because the disk is full; what was there before is
                unchanged.
        """
        remedy = "what was saved before is whole. Make room, then resume with: fit --resume"
        with open_whole(path, make_folder=True, remedy=remedy, error=StoppedError) as file:
            torch.save(checkpoint, file)

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Load a checkpoint; ``weights_only`` is ignored and always true."""
        loaded: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
        return loaded


def require_checkpoint(path: str | Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Refuse a file that does not exist, is cut short or damaged, or is not a checkpoint of a task.

    Args:
        path: the file.
        needed: keys that the checkpoint must have.

    Returns:
        The checkpoint, its tensors without their data.

    Raises:
        InputError: the file is refused; the message gives the reason.
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
    except Exception as error:  # unpickling can raise anything if the file is not a checkpoint
        code = isinstance(error, pickle.UnpicklingError)  # torch's message advises to trust the file
        reason = "it holds more than values" if code else first_line(error)
        raise InputError(
            f"{path}: cannot be read as a checkpoint ({reason}); take another one, such as {PREVIOUS}"
        ) from error
    weights = found.get("state_dict") if isinstance(found, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(f"{path}: holds no network; expected a checkpoint that `fit` has written")
    for key in needed:
        require(key in found, f"{path}: lacks {key}; expected a checkpoint that `fit` has written")
    return dict(found)


def require_weights(path: str | Path, checkpoint: Mapping[str, Any], task: nn.Module) -> None:
    """Refuse a checkpoint of another network than the task's, before anything is written.

    Args:
        path: of the checkpoint, for the message.
        checkpoint: its content.
        task: the task that is to load it.

    Raises:
        InputError: a name or a shape differs; the message gives the first difference.
    """
    other = difference(task, checkpoint["state_dict"])
    require(other is None, f"{path}: is of another network: {other}; give the configuration that it was trained with")


def difference(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> str | None:
    """Describe the first name or shape in which weights differ from a network's; None if there is no difference."""
    mine = network.state_dict()
    for name in (*mine, *weights):
        here, there = (tuple(s[name].shape) if name in s else "none" for s in (mine, weights))
        if here != there:
            return f"{name} has shape {there} in the checkpoint and {here} in this network"
    return None


def require_state(path: str | Path, checkpoint: Mapping[str, Any], loops: Mapping[str, Any] | None = None) -> None:
    """Refuse a checkpoint whose training state is not one that the trainer could continue from.

    Args:
        path: of the checkpoint, for the message.
        checkpoint: its content.
        loops: state of the trainer's loops before training, whose form that of the checkpoint must have; None if that
            is not known yet.

    Raises:
        InputError: what is lacking or of another form.
    """
    other = "; take another checkpoint, such as " + PREVIOUS
    for key in TRAINING_STATE:
        require(key in checkpoint, f"{path}: is not the state of a training run, it lacks {key}{other}")
    forms = {"global_step": int, "epoch": int, "loops": dict, "optimizer_states": list, "lr_schedulers": list}
    forms |= {"callbacks": dict, VERSION: str}
    for key, form in forms.items():
        found = checkpoint.get(key, form())
        require(isinstance(found, form), f"{path}: {key} is {_kind(found)}, expected {form.__name__}{other}")
    for state in checkpoint["optimizer_states"]:
        groups = state.get("param_groups") if isinstance(state, dict) else None
        whole = (
            isinstance(groups, list)
            and groups
            and all(isinstance(group, dict) and "params" in group for group in groups)
        )
        require(whole and isinstance(state.get("state"), dict), f"{path}: holds no state of an optimizer{other}")
    if loops is not None:
        odd = misfit(loops, checkpoint["loops"].get("fit_loop"), "loops.fit_loop")
        require(odd is None, f"{path}: {odd}{other}")


def misfit(form: Any, found: Any, name: str) -> str | None:
    """Describe the first place in which a nested state is not of a form: a key is lacking, a value of another kind.

    Example:
        >>> misfit({"a": {"b": 1}}, {"a": {"b": "x"}}, "loops")
        'loops.a.b is str, expected int'
    """
    if isinstance(form, Mapping):
        if not isinstance(found, Mapping):
            return f"{name} is {_kind(found)}, expected dict"
        lacking = next((key for key in form if key not in found), None)
        if lacking is not None:
            return f"{name} lacks {lacking}"
        return next((odd for key in form if (odd := misfit(form[key], found[key], f"{name}.{key}"))), None)
    if form is None or isinstance(found, type(form)):
        return None
    return f"{name} is {_kind(found)}, expected {type(form).__name__}"


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__


def within_epoch(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint was saved after some batches of an epoch and before its last."""
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return bool(batches["current"]["ready"]) and not batches["is_last_batch"]


def newest_checkpoint(folder: Path, task: nn.Module, loops: Mapping[str, Any] | None = None) -> Path | None:
    """Return the checkpoint from which a run resumes, and warn about each that cannot be used.

    It is the last state, or the one before it; only if neither can be used, the best state that is furthest in
    training: that was saved before the end of its epoch, whose last rows would be missing in the run's metrics.
    Checkpoints older than the last state do not count: a run that was taken back to an earlier epoch left them behind.

    Args:
        folder: folder of the run's checkpoints.
        task: the task that is to resume from it.
        loops: see `require_state`.

    Returns:
        Path of the checkpoint, or None if there are no checkpoints.

    Raises:
        InputError: there are checkpoints, but none can be used.
    """
    good: list[tuple[bool, bool, int, int, bool, Path]] = []
    faults = []
    for path in sorted(folder.glob("*.ckpt")):
        try:
            checkpoint = require_checkpoint(path)
            require_state(path, checkpoint, loops)
        except InputError as error:
            faults.append(str(error))
            continue
        if other := difference(task, checkpoint["state_dict"]):
            faults.append(f"{path}: is of another network: {other}")
        else:
            whole, own = not checkpoint.get(PENDING, False), path.name in (LAST, PREVIOUS)
            good.append((whole, own, checkpoint["global_step"], path.stat().st_mtime_ns, path.name == LAST, path))
    if faults and not good:
        example = next((fault for fault in faults if LAST in fault), faults[0])
        raise InputError(
            f"{folder} holds {len(faults)} checkpoints and none of them can be used: {example}. Give the configuration "
            "that the run was started with, or start a new run without --resume"
        )
    for fault in faults:
        rank_zero_warn(f"skipped {fault}")
    if not good:
        return None
    last = next((time for whole, _, _, time, is_last, _ in good if is_last and whole), 0)
    whole, *_, newest = max(state for state in good if state[3] >= last)
    if not whole:
        rank_zero_warn(f"{newest} was saved while gradients were being accumulated: those of some batches are lost")
    return newest


def remove_partial(folder: Path) -> None:
    """Remove the incomplete checkpoints of processes that were killed while they wrote them."""
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)
