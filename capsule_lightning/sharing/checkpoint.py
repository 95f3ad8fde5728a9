"""The network of a checkpoint, and all that the checkpoint states about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capsule_lightning import __version__
from capsule_lightning.components.names import modernized
from capsule_lightning.data.trained_on import TrainedOn, read_trained_on
from capsule_lightning.errors import InputError
from capsule_lightning.runs.checkpoint_files import TRAINED_ON, require_checkpoint
from capsule_lightning.sharing.metadata import NEEDED, Metadata, metadata_of

PREFIX = "net."
"""Of the network's tensors among those of a task."""
OF_TRAINING = ("net", "in_shape", "num_classes", "optimizer", "lr_scheduler")
"""Arguments of a task that its evaluation does not need."""

OF_SETS = ("threshold", "loss")
"""Those that say which classes are named of an image that may have any number; metadata have the same names."""


def network_of(checkpoint: str | Path) -> tuple[dict[str, Tensor], Metadata]:
    """Return the tensors of a checkpoint's network by their plain names, and what the checkpoint states about it.

    Returns:
        The tensors; and metadata as `capsule_lightning.sharing.network_file.read_metadata` describes them. Of a
        checkpoint from before it held class names and normalization, those that rebuild the network alone.

    Raises:
        InputError: it is no checkpoint, or does not state how its network was built.
    """
    found = require_checkpoint(checkpoint)
    return tensors_of(checkpoint), stated_by(found, checkpoint)


def tensors_of(checkpoint: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's network by their plain names.

    Raises:
        InputError: it is no checkpoint, or one without a capsule network.
    """
    require_checkpoint(checkpoint)
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    tensors = {name.removeprefix(PREFIX): weights[name] for name in weights if name.startswith(PREFIX)}
    if not tensors:
        raise InputError(f"{checkpoint}: holds no capsule network; expected one that `fit` has written")
    return tensors


def stated_by(found: Mapping[str, Any], checkpoint: str | Path) -> Metadata:
    """Return what a checkpoint states about its network, as metadata.

    Args:
        found: its content.
        checkpoint: its path, for the message.

    Raises:
        InputError: it does not state how its network was built.
    """
    given = found.get("hyper_parameters", {})
    if not all(key in given for key in NEEDED):
        raise InputError(f"{checkpoint}: does not state how its network was built; expected one that `fit` has written")
    recipe = {key: json.dumps(given[key]) for key in NEEDED}
    progress = {key: str(found[name]) for key, name in (("step", "global_step"), ("epoch", "epoch")) if name in found}
    images = read_trained_on(found.get(TRAINED_ON), str(checkpoint))
    if images is not None and images.class_names:
        recipe["num_classes"] = json.dumps(len(images.class_names))  # with the background, if there is one
    metadata = {**recipe, **progress, "capsule_lightning": __version__}
    if images is None:
        return metadata
    task = {key: value for key, value in given.items() if key not in OF_TRAINING and not key.startswith("_")}
    slot = modernized({"class_path": given.get("_class_path"), "init_args": task})
    of_task = {} if slot["class_path"] is None else {"task": json.dumps(slot)}
    if images.num_labels == 0:
        of_task |= {key: json.dumps(task[key]) for key in OF_SETS if key in task}
    return {**metadata, **metadata_of(images), **of_task}


def images_of_checkpoint(checkpoint: str | Path) -> TrainedOn | None:
    """Return what the network of a checkpoint was trained on; None if the checkpoint was written before it held that.

    Raises:
        InputError: it is no checkpoint, or what it says cannot be used.
    """
    return read_trained_on(require_checkpoint(checkpoint).get(TRAINED_ON), str(checkpoint))
