"""A trained network with its test images and what is known about both: the subject of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capsule_lightning.augmentations.base import standardize
from capsule_lightning.components.build import build_part
from capsule_lightning.components.run_config import read_run_config
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.image_files import read_images
from capsule_lightning.data.image_trees import class_tree
from capsule_lightning.errors import InputError, require
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.runs.files import read_metrics
from capsule_lightning.runs.folders import CONFIG_NAME, run_of_checkpoint
from capsule_lightning.sharing.export import network_of
from capsule_lightning.sharing.network_file import (
    Metadata,
    build_network,
    evaluation_config,
    images_of,
    load_network,
    load_weights,
    read_metadata,
)

TESTED = 25_000  # most test images that are examined, and held in memory
MONITORED = ("coupling_entropy", "agreement", "dead_capsules")
"""Metrics that `RoutingMonitor` logs, see there."""

Normalizer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network, its test images and what is known about both.

    Attributes:
        net: the network, in evaluation mode.
        normalize: maps pictures in [0, 1] to what the network expects.
        pictures: ``(N, C, H, W)`` in [0, 1], the test images.
        labels: ``(N)`` int64.
        class_names: names of the J classes.
        title: title of the page.
        facts: names and values for the table of the page.
        config: configuration of the run as YAML; None if it is not known.
        curves: curves of the routing over training, see `routing_curves`; may be empty.
    """

    net: CapsuleNet
    normalize: Normalizer
    pictures: Tensor
    labels: Tensor
    class_names: Sequence[str]
    title: str
    facts: Mapping[str, str]
    config: str | None
    curves: Mapping[str, Sequence[tuple[int, float]]]


def load_from_run(checkpoint: Path, root: str | None = None, images: str | Path | None = None) -> TrainedNetwork:
    """Load the network of a checkpoint, its run's configuration and its test images; arguments as for `report`.

    Raises:
        InputError: there is no configuration, or images are missing or have several labels.
    """
    tensors, metadata = network_of(checkpoint)
    net = load_weights(build_network(metadata, tensors, checkpoint), tensors, checkpoint)
    folder = run_of_checkpoint(checkpoint)
    if folder is None:
        raise InputError(
            f"{checkpoint}: no {CONFIG_NAME} of its run in the folders above it, which states what its images are; "
            "leave the checkpoint in its run, or export it and give --images FOLDER"
        )
    settings = read_run_config(folder)
    config = (folder / CONFIG_NAME).read_text(encoding="utf-8", errors="replace")
    data = data_of(settings, folder / CONFIG_NAME, root)
    stage = "fit" if images is not None and data.normalization == "channel" else "test"
    if images is None or stage == "fit":
        data.prepare_data()
        data.setup(stage)
    statistics = data.statistics or (None, None)
    normalize = normalizer({"kind": data.normalization, "mean": statistics[0], "deviation": statistics[1]})
    pictures, labels, told = data_pictures(data) if images is None else folder_pictures(images, net, data.class_names)
    name = f"{settings.get('experiment', folder.parent.name)}, run {folder.name}"
    facts = {"data": told, "checkpoint": checkpoint.name, **training(metadata)}
    curves = monitored(folder / "metrics.csv")
    return TrainedNetwork(net, normalize, pictures, labels, data.class_names, name, facts, config, curves)


def load_from_file(path: str | Path, root: str | None = None, images: str | Path | None = None) -> TrainedNetwork:
    """Load a shared network and the test images of its data set or of a folder; arguments as for `report`.

    Raises:
        InputError: the file does not say what its images are, or they are missing.
    """
    metadata = read_metadata(path)
    net = load_network(path)
    names, normalization = images_of(metadata, path)
    if images is None:
        data = data_of(evaluation_config(path), path, root)
        data.prepare_data()
        data.setup("test")
        pictures, labels, told = data_pictures(data)
    else:
        pictures, labels, told = folder_pictures(images, net, names)
    normalize = normalizer(normalization)
    facts = {"network file": Path(path).name, "data": told, **training(metadata)}
    return TrainedNetwork(net, normalize, pictures, labels, names, Path(path).stem, facts, None, {})


def data_of(settings: Any, source: str | Path, root: str | None) -> ImageDataModule:
    """Make the data module of a configuration, for images of one label.

    Args:
        settings: the configuration.
        source: where it is from, for the message.
        root: folder of the data, if it is not the one in the configuration.

    Raises:
        InputError: the configuration does not name the data, or their images have several labels.
    """
    try:
        slot = settings["data"]
        if root is not None:
            slot.setdefault("init_args", {})["root"] = root
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{source}: says nothing of the data; expected one that `fit` has written") from error
    data: ImageDataModule = build_part(slot, ImageDataModule)
    if data.num_labels != 1:
        raise InputError(
            f"{data.name}: its images have {data.num_labels} labels each; a report is about images of one class, such "
            "as mnist"
        )
    return data


def training(metadata: Metadata) -> dict[str, str]:
    """Return how long the network was trained, if the file says so."""
    return {"training steps": f"{int(metadata['step']):,}"} if metadata.get("step", "").isdecimal() else {}


def normalizer(kind: Mapping[str, Any]) -> Normalizer:
    """Return the map from pictures in [0, 1] to what the network expects, from the metadata of `export`.

    Args:
        kind: ``kind``, one of ``none``, ``per_image`` and ``channel``; for the last ``mean`` and ``deviation``.

    Raises:
        InputError: ``channel`` without its numbers.
    """
    if kind["kind"] == "none":
        return lambda pictures: pictures
    if kind["kind"] == "per_image":
        return standardize
    if kind.get("mean") is None or kind.get("deviation") is None:
        raise InputError("the mean and deviation of the training images are not known; export where they can be read")
    mean, deviation = (torch.tensor(kind[name]).view(-1, 1, 1) for name in ("mean", "deviation"))
    return lambda pictures: (pictures - mean) / deviation


def evaluation_pictures(data: ImageDataModule, most: int = TESTED) -> tuple[Tensor, Tensor, int]:
    """Return test images as evaluation sees them, not normalized.

    Args:
        data: the data, after ``setup("test")``.
        most: largest N; if there are more test images, every second, third, ... is taken.

    Returns:
        ``(N, C, H, W)`` in [0, 1], their labels ``(N)``, and how many test images there are.
    """
    loader = data.test_dataloader()
    every = max(ceil(len(loader) * data.batch_size / most), 1)
    pictures, labels, total = [], [], 0
    for stored in loader:
        batch = data.on_after_batch_transfer(stored, 0)
        first = -total % every
        pictures.append(batch.pictures[first::every])
        labels.append(batch.labels[first::every])
        total += len(batch.labels)
    return torch.cat(pictures), torch.cat(labels), total


def data_pictures(data: ImageDataModule) -> tuple[Tensor, Tensor, str]:
    """Return test images and labels, see `evaluation_pictures`, and a text that says how many there are."""
    pictures, labels, total = evaluation_pictures(data)
    count = f"{len(labels):,}" if len(labels) == total else f"{len(labels):,} of {total:,}"
    return pictures, labels, f"{data.name}, {count} test images"


def folder_pictures(images: str | Path, net: CapsuleNet, class_names: Sequence[str]) -> tuple[Tensor, Tensor, str]:
    """Return images ``<images>/<class>/*`` in [0, 1], scaled to the network's input, their labels and their folder.

    Raises:
        InputError: there is no such folder, or it has other classes.
    """
    folder = Path(images).expanduser()
    require(folder.is_dir(), f"{folder}: no such folder; --images takes one of test images, {folder}/<class>/<image>")
    channels, rows, columns = net.in_shape
    tree = class_tree(folder, class_names)
    found = read_images(tree.paths, (channels, rows, columns), resize=True)
    return found.float() / 255, torch.tensor(tree.labels), str(images)


def monitored(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of `RoutingMonitor` in a run's ``metrics.csv``, by name; empty if it was not used.

    Raises:
        InputError: the file cannot be read.
    """
    history = {name.removeprefix("train/"): curve for name, curve in read_metrics(metrics).history.items()}
    return {name: list(curve.items()) for name, curve in history.items() if name in MONITORED}
