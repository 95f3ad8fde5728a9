"""A trained network in a file to share, read without running any code of the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.components.foreign import component, known_class, require_harmless
from capsule_lightning.components.names import OLD_NAMES, modernized
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.trained_on import of_no_machine
from capsule_lightning.decoders.base import Decoder
from capsule_lightning.encoders.base import Encoder
from capsule_lightning.errors import InputError, first_line, nearest, require
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.losses.detection import HeatMapLoss
from capsule_lightning.losses.pixels import PixelLoss
from capsule_lightning.metrics.base import Metrics
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.detector import Detector
from capsule_lightning.models.translation import TranslationNet
from capsule_lightning.routing.base import Routing
from capsule_lightning.runs.checkpoint_files import difference
from capsule_lightning.runs.folders import expanded
from capsule_lightning.runs.plain_json import parse_json
from capsule_lightning.sharing.checkpoint import network_of
from capsule_lightning.sharing.metadata import NEEDED, OF_IMAGES, Metadata, images_of
from capsule_lightning.sharing.naming import naming_of
from capsule_lightning.sharing.reader import ImageReader
from capsule_lightning.sharing.texts import SentenceReader, TextReader
from capsule_lightning.shipped import PRETRAINED
from capsule_lightning.tasks.base import Task

SUFFIX = ".safetensors"
LARGEST, LONGEST, MOST_PIXELS = 2**20, 2**10, 2**26
"""Bounds of what a file from elsewhere may state: a size, the values of a list, and the values of one image."""
Network = CapsuleNet | Detector | TranslationNet
"""Of images or texts, whatever it says about them."""
NETWORKS = (CapsuleNet, Detector, TranslationNet)
PARTS = (*NETWORKS, Encoder, Routing, Decoder)
"""What a network of a file from elsewhere may be made of."""
EVALUATION = (*PARTS, Task, ClassificationLoss, HeatMapLoss, PixelLoss, Metrics, DataModule, Augmentation)
"""What its configuration may name."""


def load_network(path: str | Path) -> Network:
    """Load a trained network, for evaluation.

    Its `predict` takes images as they are: files, or pixels. Called, it takes what it was trained on, which
    `read_metadata` tells under ``input``. Weights in half precision are widened to float32, which keeps their values;
    float64 stays float64. Only classes of networks are made of what the file names, so that it cannot run code; those
    of a module of one's own are found once that module is imported.

    Args:
        path: a ``.safetensors`` file that `export` has written, a checkpoint, or the name of a network that comes with
            the package.

    Raises:
        InputError: there is no such file, it is of another kind, or its weights do not fit the network it describes.

    Example:
        >>> net = load_network("efficient_capsnet_mnist")
        >>> net(torch.rand(2, 1, 28, 28)).activations.shape
        torch.Size([2, 10])
        >>> net.predict(torch.zeros(3, 28, 28, dtype=torch.uint8)).poses.shape
        torch.Size([3, 10, 16])
    """
    require_source(path)
    if is_shared(path):
        tensors, metadata = read_tensors(path), read_metadata(path)
    else:
        tensors, metadata = network_of(expanded(path, "--ckpt_path"))
    return network_from(tensors, metadata, path)


def network_from(tensors: Mapping[str, Tensor], metadata: Metadata, path: str | Path) -> Network:
    """Build the network that metadata describe, with its weights, and let it prepare images if they say how.

    Raises:
        InputError: the network cannot be built, its weights do not fit, or what is said of images cannot be used.
    """
    missing = [key for key in NEEDED if key not in metadata]
    if missing:
        raise InputError(
            f"{path}: does not state how its network is built, its metadata lack {', '.join(missing)}; expected "
            "a file that `export` has written"
        )
    net = load_weights(build_network(metadata, tensors, path), tensors, path)
    if all(key in metadata for key in OF_IMAGES):
        reader = image_reader(metadata, path)
        net.reader, net.class_names = reader, list(reader.images.class_names)
        if isinstance(net, TranslationNet) and isinstance(reader, SentenceReader):
            net.writer = reader.write
        net.naming = naming_of(metadata, path)
    return net


def image_reader(metadata: Metadata, path: str | Path) -> ImageReader | TextReader | SentenceReader:
    """Return what prepares images, or texts, for a network.

    Raises:
        InputError: the metadata do not say what the network was trained on.
    """
    images = images_of(metadata, path)
    if images.of_sentences:
        return SentenceReader(images, str(path))
    if images.vocabulary is not None:
        return TextReader(images, str(path))
    slot = modernized((images.slot or {}).get("init_args", {}).get("augmentation"))
    try:
        augmentation: Any = None if slot is None else component(slot, (Augmentation,))()
    except (ValueError, TypeError) as error:  # InputError among them
        raise InputError(f"{path}: its images cannot be prepared ({first_line(error)})") from error
    return ImageReader(images, augmentation)


def read_metadata(path: str | Path) -> Metadata:
    """Return the metadata of a ``.safetensors`` file.

    Returns:
        ``net``, the JSON of the class and its arguments; ``in_shape`` and ``num_classes``; ``step``, ``epoch`` and
        ``capsule_lightning``, the version, of the training; and if they are known ``class_names``, ``normalization``,
        ``stored_shape``, ``num_labels``, ``brightness`` and ``data_name``, see `TrainedOn`, ``input``, a sentence about
        the images that the network expects, and ``task`` and ``data``, the JSON of the classes that evaluated it.

    Raises:
        InputError: there is no such file, or it is of another kind.
    """
    with open_safetensors(path) as file:
        return {OLD_NAMES.get(key, key): value for key, value in (file.metadata() or {}).items()}


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the weights of a ``.safetensors`` file by name, as they are stored.

    Raises:
        InputError: there is no such file, or it is of another kind.
    """
    with open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping


def is_shared(path: str | Path) -> bool:
    """Return whether a path is meant for a shared network, and not for a checkpoint.

    Example:
        >>> is_shared("efficient_capsnet_mnist"), is_shared("net.safetensors"), is_shared("last.ckpt")
        (True, True, False)
    """
    return Path(path).suffix == SUFFIX or _shipped(path) is not None


def _shipped(name: str | Path) -> Path | None:
    """Return the file of the shipped network of that name; a path that leads elsewhere is not a name."""
    file = PRETRAINED / f"{name}{SUFFIX}"
    return file if file.parent == PRETRAINED and file.is_file() else None


def open_safetensors(path: str | Path) -> Any:
    """Open a ``.safetensors`` file, or the shipped one of that name.

    Raises:
        InputError: there is no such file, or it is of another kind.
    """
    file = _shipped(path) or expanded(path, "--ckpt_path")
    if not file.is_file():
        names = ", ".join(sorted(each.stem for each in PRETRAINED.glob(f"*{SUFFIX}")))
        raise InputError(f"{path}: no such file; expected one that `export` has written, or a shipped network: {names}")
    try:
        return safetensors.safe_open(file, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: is not a safetensors file, or only a part of one ({first_line(error)})") from error


def build_network(metadata: Mapping[str, str], tensors: Mapping[str, Tensor], path: str | Path) -> Network:
    """Build the network that metadata describe, with its initial weights.

    It is first built without memory, and its shapes are compared with those of the weights: so the sizes that a file
    states take no more memory than the weights that it holds.

    Args:
        metadata: see `read_metadata`.
        tensors: the weights by their names in the network.
        path: the file that they are from, for the message.

    Raises:
        InputError: the network cannot be built, or its weights have other names or shapes; the first is named.
    """
    try:
        slot, in_shape, num_classes = (modernized(parse_json(metadata[key], key)) for key in NEEDED)
        known_class(str(slot["class_path"]), NETWORKS, "the kind that makes capsules of images or translates")
        require_moderate([slot, in_shape, num_classes])
        require(math.prod(in_shape) <= MOST_PIXELS, f"in_shape={in_shape}: expected at most {MOST_PIXELS:,} values")
        make = partial(component(slot, PARTS), tuple(in_shape), num_classes)
        with torch.device("meta"):
            wrong = difference(make(), tensors)
        require(wrong is None, f"its weights are not those of the network it describes: {wrong}")
        net: Network = make()  # type: ignore[assignment]
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:  # InputError among them
        raise InputError(f"{path}: its network cannot be built ({first_line(error)})") from error
    return net


def require_moderate(value: Any) -> None:
    """Refuse numbers and lists of a configuration from elsewhere that no network has: a machine could not count so far.

    Raises:
        InputError: a whole number above `LARGEST`, or a list of more than `LONGEST` values.
    """
    if isinstance(value, dict | list):
        require(len(value) <= LONGEST, f"{len(value):,} values in one place: expected at most {LONGEST:,}")
        for each in value.values() if isinstance(value, dict) else value:
            require_moderate(each)
    elif isinstance(value, int):
        require(abs(value) <= LARGEST, f"{value:,}: expected at most {LARGEST:,}, as a size of a network")


def load_weights(net: Network, tensors: Mapping[str, Tensor], path: str | Path) -> Network:
    """Load weights into a network, and set it to evaluation.

    Raises:
        InputError: names or shapes differ; the first difference is named.
    """
    wrong = difference(net, tensors)
    if wrong is not None:
        raise InputError(f"{path}: its weights are not those of the network it describes: {wrong}")
    if any(tensor.dtype == torch.float64 for tensor in tensors.values()):
        net.double()
    net.load_state_dict(tensors)
    return net.eval()


def evaluation_config(path: str | Path) -> dict[str, Any]:
    """Return the configuration that evaluates a shared network: its task, network and data set.

    Raises:
        InputError: see `config_from`.
    """
    return config_from(read_metadata(path), path)


def config_from(metadata: Metadata, path: str | Path) -> dict[str, Any]:
    """Return the configuration that evaluates the network which metadata describe.

    Raises:
        InputError: they do not state it, or hold anything but classes of the package's kinds and plain values: the
            parser would call what it is given.
    """
    missing = [key for key in ("task", "data", "net") if key not in metadata]
    if missing:
        raise InputError(
            f"{path}: does not state its {' and '.join(missing)}; export it again from its run's folder, or read it "
            "with load_network"
        )
    try:
        task, data, net = (modernized(parse_json(metadata[key], key)) for key in ("task", "data", "net"))
        for slot in (task, data, net):
            require_harmless(slot, EVALUATION)
        task.setdefault("init_args", {})["net"] = net
        data["init_args"] = of_no_machine(data.get("init_args") or {})
    except (ValueError, AttributeError) as error:  # InputError and what is no JSON among them
        raise InputError(f"{path}: its configuration cannot be used ({first_line(error)})") from error
    return {"experiment": Path(path).stem, "model": task, "data": data}


def require_source(path: str | Path) -> None:
    """Refuse a path that is neither a file nor the name of a network that comes with the package.

    Raises:
        InputError: it is neither; the nearest name is given.
    """
    if not expanded(path, "--ckpt_path").exists() and not is_shared(path):
        names = [each.stem for each in PRETRAINED.glob(f"*{SUFFIX}")]
        raise InputError(
            f"{path}: no such checkpoint; expected a file like runs/.../checkpoints/last.ckpt, a {SUFFIX} file, or a "
            f"shipped network: {', '.join(names)}{nearest(str(path), names)}"
        )
