"""A trained network in one file to share: its weights as safetensors, or all that it computes as ONNX."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from capsule_lightning import __version__
from capsule_lightning.components.build import build_data
from capsule_lightning.components.names import modernized
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.errors import InputError, first_line
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.routing.base import Routing
from capsule_lightning.runs.checkpoint_files import require_checkpoint
from capsule_lightning.runs.files import read_yaml
from capsule_lightning.runs.folders import CONFIG_NAME, run_of_checkpoint
from capsule_lightning.sharing.network_file import (
    NEEDED,
    OF_MACHINE,
    SUFFIX,
    Metadata,
    build_network,
    filled,
    is_shared,
    load_network,
    read_metadata,
    read_tensors,
)

__all__ = ["Exported", "export", "load_network", "read_metadata"]

SUFFIXES = (SUFFIX, ".onnx")

_PREFIX = "net."  # of the network's tensors among those of a task
_OF_TRAINING = ("net", "in_shape", "num_classes", "optimizer", "lr_scheduler")  # a task's, not needed for evaluation
_ONNX_EXTRA = ("onnx", "onnxscript", "onnxruntime")
# of the largest number of an output; sums in another order stay far below, another computation far above
_TOLERANCE = 1e-3


class Exported(NamedTuple):
    """What `export` has written.

    Attributes:
        path: of the file.
        parameters: of the network.
        size: of the file in bytes.
        unknown: what the file does not say of the images that the network needs, and why; None where it says all.
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
        checkpoint: that ``fit`` has written; or a ``.safetensors`` file of this function, or the name of a network that
            comes with the package, to be written as ONNX.
        output: ends in ``.safetensors``, which `load_network` reads, or in ``.onnx``: images ``(B, C, H, W)`` float32
            to ``poses (B, J, E)``, ``activations (B, J)``, and ``reconstruction (B, C, H, W)`` from the longest capsule
            where there is a decoder. None for ``.safetensors`` beside the checkpoint.
        overwrite: replace a file that is there.
        half: weights in float16, half the size; `load_network` widens them. For ``.safetensors`` alone.

    Raises:
        InputError: a file that is no checkpoint, an output that cannot or must not be written, a network that ONNX
            cannot express.
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
    net = filled(build_network(metadata, checkpoint), tensors, checkpoint)
    if path.suffix == ".onnx":
        content = onnx_model(net, metadata)
    else:
        # a copy of each, in order: the format knows neither views nor tensors that share their memory
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        if half:
            copies = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in copies.items()}
        content = safetensors.torch.save(copies, {"format": "pt", **metadata})
    write_whole(path, content, overwrite)
    return Exported(path, sum(p.numel() for p in net.parameters()), len(content), unknown)


def network_of(checkpoint: Path) -> tuple[dict[str, Tensor], Metadata]:
    """The tensors of a checkpoint's network by their plain names, and the metadata that it can be rebuilt from.

    Raises:
        InputError: the checkpoint does not say how its network was built.
    """
    found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    given, weights = found.get("hyper_parameters", {}), found["state_dict"]
    tensors = {name.removeprefix(_PREFIX): weights[name] for name in weights if name.startswith(_PREFIX)}
    if not tensors or not all(key in given for key in NEEDED):
        raise InputError(f"{checkpoint}: does not say how its network was built; expected one that `fit` has written")
    recipe = {key: json.dumps(given[key]) for key in NEEDED}
    progress = {key: str(found[name]) for key, name in (("step", "global_step"), ("epoch", "epoch")) if name in found}
    return tensors, {**recipe, **progress, "capsule_lightning": __version__}


def what_images_need(checkpoint: Path) -> tuple[Metadata, str | None]:
    """Class names, normalization, task and data set, from the configuration of a checkpoint's run.

    Where channels are normalized by what was measured in the training images, it is measured again.

    Returns:
        Metadata, and what is missing in them and why; None where nothing is.
    """
    folder = run_of_checkpoint(checkpoint)
    if folder is None:
        return {}, f"its class names and normalization, for want of the run's {CONFIG_NAME} beside the checkpoint"
    try:
        config = modernized(read_yaml(folder / CONFIG_NAME))
        data, seed = build_data(config["data"]), config.get("seed_everything")
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
    """A slot without some arguments of its class.

    Example:
        >>> without({"class_path": "a.MNIST", "init_args": {"root": "/data", "batch_size": 8}}, ["root"])
        {'class_path': 'a.MNIST', 'init_args': {'batch_size': 8}}
    """
    arguments = {key: value for key, value in (slot.get("init_args") or {}).items() if key not in names}
    return {"class_path": slot["class_path"], "init_args": arguments}


def expected_input(data: ImageDataModule) -> str:
    """One sentence: what is done to the images of a data set before the network sees them."""
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


class Answers(nn.Module):
    """Images to all that a network says of them, as one tuple; the outputs of an ONNX file.

    Args:
        net: the network.
    """

    def __init__(self, net: CapsuleNet) -> None:
        super().__init__()
        self.net = net
        self.names = ["poses", "activations", *([] if net.decoder is None else ["reconstruction"])]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``(B, C, H, W)`` to ``(B, J, E)``, ``(B, J)``, and ``(B, C, H, W)`` from the longest capsule."""
        capsules = self.net(images)
        reconstruction = self.net.reconstruct(capsules, capsules.activations.argmax(dim=-1))
        return (*capsules, *([] if reconstruction is None else [reconstruction]))


def require_onnx() -> None:
    """Refuse to go on without the packages that write ONNX.

    Raises:
        InputError: one of them is not installed.
    """
    for package in _ONNX_EXTRA:
        try:
            import_module(package)
        except ImportError as error:
            raise InputError(
                f'an .onnx file needs {package}, which is not installed: pip install "capsule_lightning[onnx]"'
            ) from error


def onnx_model(net: CapsuleNet, metadata: Metadata) -> bytes:
    """A network as an ONNX model for batches of any size, in float32.

    It is run before it is given back: its answers are those of the network.

    Args:
        net: for evaluation; its routing is set to plain functions.
        metadata: that the file carries.

    Raises:
        InputError: a network that cannot be expressed, or that answers otherwise once it is.
    """
    for module in net.modules():
        if isinstance(module, Routing):
            module.backend = "torch"  # the fast paths are made of what no other program knows
    answers = Answers(net.float()).eval()
    images = torch.rand(3, *net.in_shape, generator=torch.Generator().manual_seed(0))
    shapes = {"images": {0: torch.export.Dim("batch")}}
    try:
        with torch.no_grad(), _quiet():
            # strict, because then `len` of a tensor stays a symbol: plain tracing would fix the batch at 3
            traced = torch.export.export(answers, (images,), dynamic_shapes=shapes, strict=True)
            program = torch.onnx.export(traced, input_names=["images"], output_names=answers.names, verbose=False)
        assert program is not None
        model = program.model
        for node in model.graph.all_nodes():
            node.metadata_props.clear()  # where the code lies on this machine
        for value in (*model.graph.inputs, *model.graph.outputs):
            assert value.shape is not None
            value.shape[0] = "batch"
        model.metadata_props.update(metadata)
        content: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # whatever the tracer, the translator and the format's limit of 2 GiB raise
        reason = first_line(error.__cause__ or error).split(" For more information")[0]
        raise InputError(
            f"this network cannot be written as ONNX for batches of any size ({reason}); share it as .safetensors"
        ) from error
    require_same_answers(content, answers, [images, images[:1]])
    return content


def require_same_answers(content: bytes, answers: Answers, batches: Sequence[Tensor]) -> None:
    """Run an ONNX model and refuse it where it does not say what the network says.

    Args:
        content: of the model.
        answers: of the network.
        batches: of images, each ``(B, C, H, W)``.

    Raises:
        InputError: names the output that differs.
    """
    runtime: Any = import_module("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for images in batches:
        with torch.no_grad():
            expected = answers(images)
        found = session.run(answers.names, {"images": images.numpy()})
        for name, ours, theirs in zip(answers.names, expected, map(torch.from_numpy, found), strict=True):
            if ours.shape != theirs.shape or not (theirs - ours).abs().max() <= _TOLERANCE * ours.abs().max():
                raise InputError(
                    f"as ONNX this network answers otherwise, by its {name} for {len(images)} images; share it as "
                    ".safetensors"
                )


def require_place(path: Path, overwrite: bool) -> None:
    """Refuse a folder that is not there, and a file that is.

    Raises:
        InputError: as said.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder; make it, or choose another --output")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another --output, or replace it with --overwrite")


def write_whole(path: Path, content: bytes, overwrite: bool) -> None:
    """Write beside a place, onto the disk, and only then move there: no kill leaves a part of a file.

    Raises:
        InputError: it cannot be written, or has come into being meanwhile.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        require_place(path, overwrite)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the pages that torch logs of a network that it cannot trace."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
