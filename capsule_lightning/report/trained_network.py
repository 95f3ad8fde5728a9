"""A trained network with its test images and what is known about both: the subject of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.components.build import build_part
from capsule_lightning.components.slots import Slot, arguments, find_class
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.image_trees import class_tree
from capsule_lightning.data.mnist import MNISTDataModule
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.trained_on import TrainedOn
from capsule_lightning.errors import InputError, require
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.report.evaluated_network import is_evaluated
from capsule_lightning.report.source import Source, read_file, read_run
from capsule_lightning.runs.files import read_metrics
from capsule_lightning.runs.folders import expanded
from capsule_lightning.sharing.reader import ImageReader

TESTED = 25_000  # most test images that are examined, and held in memory
DIGIT, FRAME = (20, 20), 4
"""Rows and columns of a digit of MNIST, and the empty ones around it."""
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

    A checkpoint outside its run states what its images are, unless it was written before checkpoints did.

    Raises:
        InputError: it is not known what the images are, or they are missing or have several labels.
    """
    return with_images(read_run(checkpoint), root, images)


def load_from_file(path: str | Path, root: str | None = None, images: str | Path | None = None) -> TrainedNetwork:
    """Load a shared network and the test images of its data set or of a folder; arguments as for `report`.

    Raises:
        InputError: the file does not say what its images are, or they are missing.
    """
    return with_images(read_file(path), root, images)


def with_images(source: Source, root: str | None = None, images: str | Path | None = None) -> TrainedNetwork:
    """Load the test images of a network that names the class of an image; arguments as for `report`.

    Raises:
        InputError: the images are missing or have several labels, or the network is for something else.
    """
    net = source.net
    require(
        not is_evaluated(net),
        f"{source.path}: is a {type(net).__name__}, which names no classes of images; call report, which looks at it "
        "with its task",
    )
    assert isinstance(net, CapsuleNet)
    settings = {} if source.shared and images is not None else source.settings()
    pictures, labels, told, about = subject(net, source.about, settings, source.config_file, root, images)
    curves = {} if source.folder is None else monitored(source.folder / "metrics.csv")
    return TrainedNetwork(
        net,
        about.normalize,
        pictures,
        labels,
        about.class_names,
        source.title(settings),
        source.facts(told),
        source.config,
        curves,
    )


def subject(
    net: CapsuleNet,
    about: TrainedOn | None,
    settings: Any,
    source: str | Path,
    root: str | None,
    images: str | Path | None,
) -> tuple[Tensor, Tensor, str, TrainedOn]:
    """Return the images that a network is reported on, and what it was trained on.

    Args:
        net: the network.
        about: what it was trained on; None if its checkpoint does not say so, and the data have to.
        settings: a configuration with ``data``.
        source: where that is from, for messages.
        root, images: see `report`.

    Returns:
        Pictures ``(N, C, H, W)`` in [0, 1], labels ``(N)``, a text about them, and what the network was trained on.

    Raises:
        InputError: the images are missing, have several labels, or are of other classes.
    """
    require(
        len(net.in_shape) == 3,
        f"{source}: takes inputs of shape {tuple(net.in_shape)}, and a report shows pictures; use test and predict",
    )
    require(
        tuple(net.in_shape[1:]) != (1, 1),
        f"{source}: takes vectors of {net.in_shape[0]} numbers, and a report shows pictures; use test and predict",
    )
    if about is not None and images is not None:
        return *folder_pictures(images, net, about), about
    data = data_of(settings, source, root)
    if about is not None:
        about.require_same(data, str(source))
        about.normalizes(data)
        found = few_digits(data) if root is None else None
        return *(found or data_pictures(data)), about
    if data.normalization == "channel":
        data.prepare_data()
        data.setup("fit")
    about = TrainedOn(
        data.name,
        list(data.class_names),
        list(net.in_shape),
        list(data.stored_shape),
        normalization=data.normalization,
        statistics=data.statistics if data.normalization == "channel" else None,
    )
    return *(data_pictures(data) if images is None else folder_pictures(images, net, about)), about


def data_of(settings: Any, source: str | Path, root: str | None) -> ImageDataModule:
    """Make the data module of a configuration, for images of one label.

    Args:
        settings: the configuration.
        source: where it is from, for the message.
        root: folder or file of the data, if it is not the one in the configuration.

    Raises:
        InputError: the configuration does not name the data, or their images have several labels.
    """
    try:
        slot = settings["data"]
        made = find_class(slot["class_path"], Slot((DataModule,)))
        require(
            issubclass(made, ImageDataModule),
            f"{source}: was trained on {made.__name__}, whose images have no classes, and a report is about the "
            "capsules of classes; its numbers and pictures are in the folder of the run and of `test`",
        )
        if root is not None:
            known = arguments(made)
            slot.setdefault("init_args", {})["root" if "root" in known else "path"] = root
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{source}: says nothing of the data; expected one that `fit` has written") from error
    data: ImageDataModule = build_part(slot, ImageDataModule)
    if data.num_labels != 1:
        raise InputError(
            f"{data.name}: its images have {data.num_labels or 'any number of'} labels each; a report is about images "
            "of one class, such as mnist"
        )
    return data


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
    data.prepare_data()
    data.setup("test")
    pictures, labels, total = evaluation_pictures(data)
    count = f"{len(labels):,}" if len(labels) == total else f"{len(labels):,} of {total:,}"
    return pictures, labels, f"{data.name}, {count} test images"


def few_digits(data: ImageDataModule) -> tuple[Tensor, Tensor, str] | None:
    """Return the digits of scikit-learn, framed as those of MNIST are, where MNIST is not; None of other data."""
    if type(data) is not MNISTDataModule or data.fake:
        return None
    try:
        data.load("test")
    except InputError:
        small, labels = DigitsDataModule().load("test")
        digits = F.interpolate(small.float() / 255, size=DIGIT, mode="bicubic").clamp(0, 1)
        framed = F.pad(digits, (FRAME,) * 4)
        told = f"{len(labels)} digits of scikit-learn, enlarged, for want of MNIST's test images (--data.root FOLDER)"
        return data.augmentation.evaluate(framed), labels, told
    return None


def folder_pictures(images: str | Path, net: CapsuleNet, about: TrainedOn) -> tuple[Tensor, Tensor, str]:
    """Return images ``<images>/<class>/*`` in [0, 1], brought to the network's input, their labels and their folder.

    Raises:
        InputError: there is no such folder, or it has other classes.
    """
    folder = expanded(images, "--images")
    require(folder.is_dir(), f"{folder}: no such folder; --images takes one of test images, {folder}/<class>/<image>")
    tree = class_tree(folder, about.class_names)
    reader = net.reader if isinstance(net.reader, ImageReader) else ImageReader(about)
    return reader.pictures(tree.paths), torch.tensor(tree.labels), str(images)


def monitored(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of `RoutingMonitor` in a run's ``metrics.csv``, by name; empty if it was not used.

    Raises:
        InputError: the file cannot be read.
    """
    history = {name.removeprefix("train/"): curve for name, curve in read_metrics(metrics).history.items()}
    return {name: list(curve.items()) for name, curve in history.items() if name in MONITORED}
