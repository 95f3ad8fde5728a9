"""What a shared network states beside its weights: how it is built, and what its images are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from capsule_lightning.data.trained_on import TrainedOn, require_form
from capsule_lightning.data.vocabulary_files import VOCABULARY
from capsule_lightning.errors import InputError
from capsule_lightning.runs.plain_json import parse_json

NEEDED = ("net", "in_shape", "num_classes")
"""Metadata that a network is rebuilt from."""
OF_IMAGES = ("class_names", "normalization")
"""Metadata without which images cannot be prepared for a network, nor its answers be named."""

Metadata = dict[str, str]


def images_of(metadata: Metadata, path: str | Path) -> TrainedOn:
    """Return what a network was trained on.

    Args:
        metadata: see `capsule_lightning.sharing.network_file.read_metadata`.
        path: the file that they are from, for the message.

    Raises:
        InputError: the file does not state it, or not in this form.
    """
    missing = [key for key in OF_IMAGES if key not in metadata]
    if missing:
        raise InputError(f"{path}: does not state its {' and '.join(missing)}; export it again from its run's folder")
    try:
        said = {
            key: parse_json(metadata[key], key) for key in ("class_names", "normalization", "in_shape", "num_classes")
        }
        more = {
            key: parse_json(metadata[key], key)
            for key in ("stored_shape", "brightness", "data", "value_range", VOCABULARY)
            if key in metadata
        }
        normalization = said["normalization"]
        numbers = [normalization[name] for name in ("mean", "deviation") if name in normalization]
        found = TrainedOn(
            name=metadata.get("data_name", Path(path).stem),
            class_names=said["class_names"],
            in_shape=said["in_shape"],
            stored_shape=more.get("stored_shape"),
            num_labels=parse_json(metadata.get("num_labels", "1"), "num_labels"),
            normalization=normalization["kind"],
            statistics=numbers or None,
            brightness=more.get("brightness"),
            slot=more.get("data"),
            value_range=more.get("value_range"),
            vocabulary=more.get(VOCABULARY),
        )
        require_form(found)
        good = found.of_sentences or len(found.class_names) == said["num_classes"]
    except (ValueError, TypeError, KeyError, AttributeError, LookupError):
        good = False
    if not good:
        raise InputError(f"{path}: its class_names and normalization cannot be used; export it again")
    return found


def metadata_of(images: TrainedOn) -> Metadata:
    """Return metadata that state what a network was trained on, see `images_of`."""
    normalization: dict[str, Any] = {"kind": images.normalization}
    if images.statistics is not None:
        normalization |= dict(zip(("mean", "deviation"), map(list, images.statistics), strict=True))
    said = {
        "class_names": list(images.class_names),
        "normalization": normalization,
        "stored_shape": images.stored_shape,
        "num_labels": images.num_labels,
        "brightness": images.brightness,
        "data": images.slot,
        "value_range": images.value_range,
        VOCABULARY: images.vocabulary,
    }
    stated = {key: json.dumps(value) for key, value in said.items() if value is not None}
    return {**stated, "data_name": images.name, "input": expected_input(images)}


def expected_input(images: TrainedOn) -> str:
    """Return one sentence about what is done to images before the network sees them."""
    if images.of_sentences:
        return f"ids of the vocabulary, (batch, up to {images.in_shape[0] + 1}) int64, 3 and then 0 behind a sentence"
    if images.vocabulary is not None:
        return f"ids of {images.in_shape[0]:,} tokens, (batch, up to {images.in_shape[1]}) int64, 0 behind a text"
    scale = "from 0 to 1"
    if images.value_range is not None:
        scale += f", which are {images.value_range[0]:g} and {images.value_range[1]:g} in files and arrays"
    text = f"images (batch, {', '.join(map(str, images.in_shape))}) float32, pixels {scale}"
    if images.stored_shape is not None and list(images.in_shape) != list(images.stored_shape):
        slot = (images.slot or {}).get("init_args", {}).get("augmentation") or {}
        named = slot.get("class_path", "the data's own augmentation").rpartition(".")[2]
        text += f", brought from {tuple(images.stored_shape)} to this shape as {named} does in evaluation"
    if images.normalization == "per_image":
        text += ", then each image less its mean and divided by its standard deviation over all its values"
    elif images.normalization == "channel" and images.statistics is not None:
        mean, deviation = map(list, images.statistics)
        text += f", then each channel less {mean} and divided by {deviation}"
    elif images.normalization == "channel":
        text += ", then each channel less its mean and divided by its standard deviation over the training images"
    return text


def without(slot: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a slot without some arguments of its class.

    Example:
        >>> without({"class_path": "a.MNIST", "init_args": {"root": "/data", "batch_size": 8}}, ["root"])
        {'class_path': 'a.MNIST', 'init_args': {'batch_size': 8}}
    """
    arguments = {key: value for key, value in (slot.get("init_args") or {}).items() if key not in names}
    return {"class_path": slot["class_path"], "init_args": arguments}
