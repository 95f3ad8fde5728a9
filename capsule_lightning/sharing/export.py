"""A trained network in one file to share: its weights as safetensors, or all that it computes as ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch

from capsule_lightning.components.build import build_part
from capsule_lightning.components.own import import_own
from capsule_lightning.components.run_config import read_run_config
from capsule_lightning.components.slots import Slot, find_class
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.trained_on import OF_MACHINE, TrainedOn
from capsule_lightning.errors import InputError, first_line
from capsule_lightning.runs.checkpoint_files import require_checkpoint
from capsule_lightning.runs.files import write_whole
from capsule_lightning.runs.folders import CONFIG_NAME, expanded, run_of_checkpoint
from capsule_lightning.runs.results import require_place
from capsule_lightning.sharing.checkpoint import OF_TRAINING, network_of
from capsule_lightning.sharing.metadata import OF_IMAGES, Metadata, metadata_of, without
from capsule_lightning.sharing.naming import naming_of
from capsule_lightning.sharing.network_file import (
    SUFFIX,
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
            if there is a decoder. A network for masks has the first two for each pixel, ``(B, H, W, ...)``; one for
            joints has ``joints (B, K, D)`` beside them; a detector has ``presence``, ``sizes`` and ``offsets`` alone,
            see `CenterMaps`; one that names any number of classes has ``presence (B, J)``, how sure it is of each, to
            compare with the ``threshold`` of its metadata; one that translates maps ``source (B, S)`` and ``target (B,
            T)``, ids of the vocabulary in its metadata, to ``logits (B, T, V)`` of the next words. None for
            ``.safetensors`` beside the checkpoint.
        overwrite: replace an existing file.
        half: weights in float16, half the size; `load_network` widens them. For ``.safetensors`` alone.

    Raises:
        InputError: the file is not a checkpoint, the output cannot or must not be written, or ONNX cannot express the
            network.
    """
    shared = is_shared(checkpoint)
    path = Path(checkpoint).with_suffix(SUFFIX) if output is None else expanded(output, "--output")
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
        import_own(Path(checkpoint))
        tensors, metadata = network_of(checkpoint)
        if any(key not in metadata for key in OF_IMAGES):  # of a checkpoint from before it held them
            of_images, unknown = what_images_need(Path(checkpoint))
            metadata |= of_images
    net = load_weights(build_network(metadata, tensors, checkpoint), tensors, checkpoint)
    if path.suffix == ".onnx":
        net.naming = naming_of(metadata, checkpoint)
        content = onnx_model(net, metadata)
    else:
        # a copy of each, in order: the format knows neither views nor tensors that share their memory
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        if half:
            copies = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in copies.items()}
        content = safetensors.torch.save(copies, {"format": "pt", **metadata})
    write_whole(path, content, overwrite=overwrite, remedy="choose another --output")
    return Exported(path, sum(p.numel() for p in net.parameters()), len(content), unknown)


def what_images_need(checkpoint: Path) -> tuple[Metadata, str | None]:
    """Return class names, normalization, task and data set, from the configuration of a checkpoint's run.

    Checkpoints hold them themselves; older ones do not.

    If channels are normalized by statistics of the training images, these are measured again.

    Returns:
        Metadata, and what is missing in them and why; None if nothing is.
    """
    folder = run_of_checkpoint(checkpoint)
    if folder is None:
        return {}, f"its class names and normalization, for want of the run's {CONFIG_NAME} beside the checkpoint"
    try:
        config = read_run_config(folder)
        made = find_class(config["data"]["class_path"], Slot((DataModule,)))
        if not issubclass(made, ImageDataModule):
            return {}, f"what its images are: {made.__name__} has no classes to state"
        data, seed = build_part(config["data"], ImageDataModule), config.get("seed_everything")
        slots = {"data": without(config["data"], OF_MACHINE)}
        if slots["data"]["init_args"].get("seed", ...) is None:  # which chose the validation images
            slots["data"]["init_args"]["seed"] = data.seed if seed is None else seed
        if "model" in config:
            slots["task"] = without(config["model"], OF_TRAINING)
    except (InputError, KeyError, TypeError) as error:
        return {}, f"its class names and normalization: {first_line(error)}"
    unknown = None
    if data.normalization == "channel" and data.statistics is None:
        try:
            data.setup("fit")
        except InputError as error:
            unknown = f"the mean and deviation of its training images: {first_line(error)}"
    found = TrainedOn(
        data.name,
        list(data.class_names),
        list(data.in_shape),
        list(data.stored_shape),
        data.num_labels,
        data.normalization,
        data.statistics if data.normalization == "channel" else None,
        slot=slots["data"],
    )
    return {**metadata_of(found), **{name: json.dumps(slot) for name, slot in slots.items()}}, unknown
