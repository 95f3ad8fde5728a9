"""A trained network in a file to share, read without running any code of the file."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import safetensors
import torch
from torch import Tensor, nn

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.components import OLD_NAMES, modern_path, modernized
from capsule_lightning.data.base import ImageDataModule, Normalization
from capsule_lightning.decoders.base import Decoder
from capsule_lightning.encoders.base import Encoder
from capsule_lightning.errors import InputError, first_line, nearest
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.routing.base import Routing
from capsule_lightning.runs.checkpoint_files import difference
from capsule_lightning.shipped import PRETRAINED, PROGRAM
from capsule_lightning.tasks.base import Task

SUFFIX = ".safetensors"
NEEDED = ("net", "in_shape", "num_classes")
"""Metadata that a network is rebuilt from."""
PARTS = (CapsuleNet, Encoder, Routing, Decoder)
"""What a network of a file from elsewhere may be made of."""
EVALUATION = (*PARTS, Task, ClassificationLoss, ImageDataModule, Augmentation)
"""What its configuration may name."""
OF_MACHINE = ("root", "images", "download")
"""Arguments of a data module that are the user's own."""

Metadata = dict[str, str]


def load_network(path: str | Path) -> CapsuleNet:
    """The network of a ``.safetensors`` file that `export` has written, for evaluation.

    Weights in half precision are widened to float32, where they have the same values; float64 stays float64. What the
    images need before they go in, `read_metadata` says under ``input``. Of what the file names,
    classes of modules alone are called.

    Args:
        path: of the file, or the name of a network that comes with the package.

    Raises:
        InputError: no such file, one of another kind, or weights that do not fit the network it describes.

    Example:
        >>> net = load_network("efficient_capsnet_mnist")
        >>> net(torch.rand(2, 1, 28, 28)).activations.shape
        torch.Size([2, 10])
    """
    metadata = read_metadata(path)
    missing = [key for key in NEEDED if key not in metadata]
    if missing:
        raise InputError(
            f"{path}: does not say how its network is built, it lacks {', '.join(missing)} in its metadata; expected "
            "a file that `export` has written"
        )
    return filled(build_network(metadata, path), read_tensors(path), path)


def read_metadata(path: str | Path) -> Metadata:
    """What a ``.safetensors`` file says of itself.

    Returns:
        ``net``, the JSON of the class and its arguments; ``in_shape`` and ``num_classes``; ``step``, ``epoch`` and
        ``capsule_lightning``, the version, of the training; and where they are known ``class_names``,
        ``normalization``, ``input``, a sentence that says what images the network expects, and ``task`` and ``data``,
        the JSON of the classes that evaluated it.

    Raises:
        InputError: no such file, or one of another kind.
    """
    with opened(path) as file:
        return {OLD_NAMES.get(key, key): value for key, value in (file.metadata() or {}).items()}


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The weights of a ``.safetensors`` file by name, as they are stored.

    Raises:
        InputError: no such file, or one of another kind.
    """
    with opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping


def is_shared(path: str | Path) -> bool:
    """Whether a path is meant for a shared network, and not for a checkpoint.

    Example:
        >>> is_shared("efficient_capsnet_mnist"), is_shared("net.safetensors"), is_shared("last.ckpt")
        (True, True, False)
    """
    return Path(path).suffix == SUFFIX or _shipped(path) is not None


def _shipped(name: str | Path) -> Path | None:
    """The file of the shipped network of that name; a path that leads elsewhere is no name."""
    file = PRETRAINED / f"{name}{SUFFIX}"
    return file if file.parent == PRETRAINED and file.is_file() else None


def opened(path: str | Path) -> Any:
    """A ``.safetensors`` file, or the shipped one of that name, ready to be read.

    Raises:
        InputError: no such file, or one of another kind.
    """
    file = _shipped(path) or Path(path).expanduser()
    if not file.is_file():
        names = ", ".join(sorted(each.stem for each in PRETRAINED.glob(f"*{SUFFIX}")))
        raise InputError(f"{path}: no such file; expected one that `export` has written, or a shipped network: {names}")
    try:
        return safetensors.safe_open(file, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: is no safetensors file, or a part of one ({first_line(error)})") from error


def build_network(metadata: Mapping[str, str], path: str | Path) -> CapsuleNet:
    """The network that metadata describe, its weights as they begin.

    Args:
        metadata: see `read_metadata`.
        path: of the file that they are from, for the error.

    Raises:
        InputError: it cannot be built.
    """
    try:
        slot, in_shape, num_classes = (modernized(json.loads(metadata[key])) for key in NEEDED)
        known_class(str(slot["class_path"]), (CapsuleNet,), "the kind that makes class capsules of images")
        net: CapsuleNet = component(slot)(tuple(in_shape), num_classes)  # type: ignore[assignment]
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # InputError and what is no JSON among them
        raise InputError(f"{path}: its network cannot be built ({first_line(error)})") from error
    return net


def component(slot: object) -> Callable[..., nn.Module]:
    """A class of modules with its arguments, to be called with the shapes.

    Not by the parser of the command line, which also calls functions, and reads text for more of what it may call: a
    file from elsewhere must not run code.

    Args:
        slot: ``class_path`` and ``init_args``, some of which may be such slots again.

    Raises:
        InputError: no such class, or anything else than a class of modules.
    """
    if not isinstance(slot, dict) or not {"class_path"} <= set(slot) <= {"class_path", "init_args"}:
        raise InputError(f"{slot!r}: expected class_path and init_args")
    found = known_class(str(slot["class_path"]), PARTS, "a network")
    given = slot.get("init_args") or {}
    arguments = {key: component(value) if isinstance(value, dict) else value for key, value in given.items()}
    return partial(found, **arguments)


def filled(net: CapsuleNet, tensors: Mapping[str, Tensor], path: str | Path) -> CapsuleNet:
    """A network with these weights, for evaluation.

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
    """What evaluates a shared network, as a configuration of the command line: its task, network and data set.

    Raises:
        InputError: a file that does not say it, or says more than classes of the package's kinds and plain values: the
            parser would call what it is given.
    """
    metadata = read_metadata(path)
    missing = [key for key in ("task", "data", "net") if key not in metadata]
    if missing:
        raise InputError(
            f"{path}: does not say its {' and '.join(missing)}; export it again from its run's folder, or read it with "
            "load_network"
        )
    try:
        task, data, net = (modernized(json.loads(metadata[key])) for key in ("task", "data", "net"))
        for slot in (task, data, net):
            require_harmless(slot)
        task.setdefault("init_args", {})["net"] = net
        for name in OF_MACHINE:
            data.setdefault("init_args", {}).pop(name, None)
    except (ValueError, AttributeError) as error:  # InputError and what is no JSON among them
        raise InputError(f"{path}: its configuration cannot be used ({first_line(error)})") from error
    return {"experiment": Path(path).stem, "model": task, "data": data}


def require_harmless(value: object) -> None:
    """Refuse all but numbers, words, and classes of networks, losses and data.

    Args:
        value: of a configuration from elsewhere.

    Raises:
        InputError: anything that the parser could take for code to call, or for a file to read.
    """
    if isinstance(value, dict):
        if "class_path" in value:
            if not set(value) <= {"class_path", "init_args"}:
                raise InputError(f"{value!r}: expected class_path and init_args")
            known_class(str(value["class_path"]), EVALUATION, "a network or of its evaluation")
        for key, each in value.items():
            if key != "class_path":
                require_harmless(each)
    elif isinstance(value, list):
        for each in value:
            require_harmless(each)
    elif isinstance(value, str) and not re.fullmatch(r"[\w -]*", value):
        raise InputError(f"{value!r} is neither a number nor a word")


def known_class(name: str, kinds: tuple[type, ...], whole: str) -> Callable[..., Any]:
    """The class of a dotted name, where it is one of some kinds; nothing is imported but from this package.

    Args:
        name: as in a configuration.
        kinds: one of which it must derive from.
        whole: what it should be a part of, for the error.

    Raises:
        InputError: there is no such class here, or it is of another kind.
    """
    module, _, attribute = modern_path(name).rpartition(".")
    if module.startswith(f"{PROGRAM}."):
        with suppress(ImportError):
            import_module(module)
    found = getattr(sys.modules.get(module), attribute, None)
    if found is None:
        raise InputError(f"no class {name!r} here: it is none of this package, nor of a module that has been imported")
    if not (isinstance(found, type) and issubclass(found, kinds)):
        raise InputError(f"{name!r} is no part of {whole}")
    return found


def images_of(metadata: Metadata, path: str | Path) -> tuple[list[str], dict[str, Any]]:
    """Class names, and the normalization of the network's input.

    Args:
        metadata: see `read_metadata`.
        path: of the file that they are from, for the error.

    Returns:
        The J names, and ``kind``, one of ``none``, ``per_image`` and ``channel``, for the last with ``mean`` and
        ``deviation`` of each channel where they are known.

    Raises:
        InputError: the file does not say them, or not so.
    """
    missing = [key for key in ("class_names", "normalization") if key not in metadata]
    if missing:
        raise InputError(f"{path}: does not say its {' and '.join(missing)}; export it again from its run's folder")
    try:
        names, normalization = (json.loads(metadata[key]) for key in ("class_names", "normalization"))
        good = len(names) == int(metadata["num_classes"]) and all(isinstance(name, str) for name in names)
        good = good and isinstance(names, list) and normalization["kind"] in get_args(Normalization)
        channels = json.loads(metadata["in_shape"])[0]
        for name in ("mean", "deviation"):
            numbers = normalization.get(name, [0.0] * channels)
            good = good and len(numbers) == channels and all(isinstance(number, float) for number in numbers)
    except (ValueError, TypeError, KeyError, AttributeError, LookupError):
        good = False
    if not good:
        raise InputError(f"{path}: what it says of its class_names and normalization cannot be used; export it again")
    return names, normalization


def require_source(path: str | Path) -> None:
    """Refuse what is neither a file nor the name of a network that comes with the package.

    Raises:
        InputError: with the nearest name.
    """
    if not Path(path).expanduser().exists() and not is_shared(path):
        names = [each.stem for each in PRETRAINED.glob(f"*{SUFFIX}")]
        raise InputError(
            f"{path}: no such checkpoint; expected a file like runs/.../checkpoints/last.ckpt, a {SUFFIX} file, or a "
            f"shipped network: {', '.join(names)}{nearest(str(path), names)}"
        )
