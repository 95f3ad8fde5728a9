"""A trained network in one file to share: its weights as safetensors, or all that it computes as ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from capsule_lightning import __version__
from capsule_lightning.components.build import build_part
from capsule_lightning.components.run_config import read_run_config
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.errors import InputError, first_line
from capsule_lightning.runs.checkpoint_files import require_checkpoint
from capsule_lightning.runs.files import write_whole
from capsule_lightning.runs.folders import CONFIG_NAME, run_of_checkpoint
from capsule_lightning.sharing.network_file import (
    NEEDED,
    OF_MACHINE,
    SUFFIX,
    Metadata,
    build_network,
    is_shared,
    load_network,
    load_weights,
    read_metadata,
    read_tensors,
)
from capsule_lightning.sharing.onnx import onnx_model, require_onnx

__all__ = ["Exported", "export", "load_network", "read_metadata"]

SUFFIXES = (SUFFIX, ".onnx")

_PREFIX = "net."  # of the network's tensors among those of a task
_OF_TRAINING = ("net", "in_shape", "num_classes", "optimizer", "lr_scheduler")  # a task's, not needed for evaluation


class Exported(NamedTuple):
    """A file that `export` has written.

    Attributes:
        path: the file.
        parameters: number of the network's parameters.
        size: of the file, in bytes.
        unknown: what the file does not state about the images that the network needs, and why; None if it states all.
    """

    path: Path
    parameters: int
    size: int
    unknown: str | None


def export(
    checkpoint: str | Path, output: str | Path | None = None, overwrite: bool = False, half: bool = False
) -> Exported:
    """Write the network of a checkpoint to a file of its own.

    Args:
        checkpoint: a file that ``fit`` has written; or a ``.safetensors`` file of this function, or the name of a
            network that comes with the package, to be written as ONNX.
        output: ends in ``.safetensors``, which `load_network` reads, or in ``.onnx``: images ``(B, C, H, W)`` float32
            to ``poses (B, J, E)``, ``activations (B, J)``, and ``reconstruction (B, C, H, W)`` from the longest capsule
            if there is a decoder. None for ``.safetensors`` beside the checkpoint.
        overwrite: replace an existing file.
        half: weights in float16, half the size; `load_network` widens them. For ``.safetensors`` alone.

    Raises:
        InputError: the file is not a checkpoint, the output cannot or must not be written, or ONNX cannot express the
            network.
    """
    shared = is_shared(checkpoint)
    path = Path(checkpoint).with_suffix(SUFFIX) if output is None else Path(output).expanduser()
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if path.suffix == ".onnx":
        if half:
            raise InputError(f"{path}: --half is for .safetensors; an .onnx file computes in float32")
        require_onnx()
    elif shared:
        raise InputError(f"{checkpoint}: is exported already; copy it, or write it as --output NAME.onnx")
    unknown = None
    if not shared:
        require_checkpoint(checkpoint)
    require_place(path, overwrite)
    if shared:
        tensors, metadata = read_tensors(checkpoint), read_metadata(checkpoint)
    else:
        tensors, metadata = network_of(Path(checkpoint))
        of_images, unknown = what_images_need(Path(checkpoint))
        metadata |= of_images
    net = load_weights(build_network(metadata, tensors, checkpoint), tensors, checkpoint)
    if path.suffix == ".onnx":
        content = onnx_model(net, metadata)
    else:
        # a copy of each, in order: the format knows neither views nor tensors that share their memory
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        if half:
            copies = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in copies.items()}
        content = safetensors.torch.save(copies, {"format": "pt", **metadata})
    write_whole(path, content, overwrite=overwrite, remedy="choose another --output")
    return Exported(path, sum(p.numel() for p in net.parameters()), len(content), unknown)


def network_of(checkpoint: Path) -> tuple[dict[str, Tensor], Metadata]:
    """Return the tensors of a checkpoint's network by their plain names, and the metadata to rebuild it from.

    Raises:
        InputError: the checkpoint does not state how its network was built.
    """
    found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    given, weights = found.get("hyper_parameters", {}), found["state_dict"]
    tensors = {name.removeprefix(_PREFIX): weights[name] for name in weights if name.startswith(_PREFIX)}
    if not tensors or not all(key in given for key in NEEDED):
        raise InputError(f"{checkpoint}: does not state how its network was built; expected one that `fit` has written")
    recipe = {key: json.dumps(given[key]) for key in NEEDED}
    progress = {key: str(found[name]) for key, name in (("step", "global_step"), ("epoch", "epoch")) if name in found}
    return tensors, {**recipe, **progress, "capsule_lightning": __version__}


def what_images_need(checkpoint: Path) -> tuple[Metadata, str | None]:
    """Return class names, normalization, task and data set, from the configuration of a checkpoint's run.

    If channels are normalized by statistics of the training images, these are measured again.

    Returns:
        Metadata, and what is missing in them and why; None if nothing is.
    """
    folder = run_of_checkpoint(checkpoint)
    if folder is None:
        return {}, f"its class names and normalization, for want of the run's {CONFIG_NAME} beside the checkpoint"
    try:
        config = read_run_config(folder)
        data, seed = build_part(config["data"], ImageDataModule), config.get("seed_everything")
        slots = {"data": without(config["data"], OF_MACHINE)}
        if slots["data"]["init_args"].get("seed", ...) is None:  # which chose the validation images
            slots["data"]["init_args"]["seed"] = data.seed if seed is None else seed
        if "model" in config:
            slots["task"] = without(config["model"], _OF_TRAINING)
    except (InputError, KeyError, TypeError) as error:
        return {}, f"its class names and normalization: {first_line(error)}"
    unknown = None
    if data.normalization == "channel" and data.statistics is None:
        try:
            data.setup("fit")
        except InputError as error:
            unknown = f"the mean and deviation of its training images: {first_line(error)}"
    normalization: dict[str, Any] = {"kind": data.normalization}
    if data.normalization == "channel" and data.statistics is not None:
        normalization |= dict(zip(("mean", "deviation"), map(list, data.statistics), strict=True))
    return {
        "class_names": json.dumps(list(data.class_names)),
        "normalization": json.dumps(normalization),
        "input": expected_input(data),
        **{name: json.dumps(slot) for name, slot in slots.items()},
    }, unknown


def without(slot: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a slot without some arguments of its class.

    Example:
        >>> without({"class_path": "a.MNIST", "init_args": {"root": "/data", "batch_size": 8}}, ["root"])
        {'class_path': 'a.MNIST', 'init_args': {'batch_size': 8}}
    """
    arguments = {key: value for key, value in (slot.get("init_args") or {}).items() if key not in names}
    return {"class_path": slot["class_path"], "init_args": arguments}


def expected_input(data: ImageDataModule) -> str:
    """Return one sentence about what is done to the images of a data set before the network sees them."""
    text = f"images (batch, {', '.join(map(str, data.in_shape))}) float32, pixels from 0 to 1"
    if data.in_shape != data.stored_shape:
        augmentation = type(data.augmentation).__name__
        text += f", brought from {tuple(data.stored_shape)} to this shape as {augmentation} does in evaluation"
    if data.normalization == "per_image":
        text += ", then each image less its mean and divided by its standard deviation over all its values"
    elif data.normalization == "channel" and data.statistics is not None:
        mean, deviation = map(list, data.statistics)
        text += f", then each channel less {mean} and divided by {deviation}"
    elif data.normalization == "channel":
        text += ", then each channel less its mean and divided by its standard deviation over the training images"
    return text


def require_place(path: Path, overwrite: bool) -> None:
    """Refuse an output whose folder does not exist, or that exists itself.

    Raises:
        InputError: the folder does not exist; or the file does, and is not to be replaced.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder; make it, or choose another --output")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another --output, or replace it with --overwrite")
