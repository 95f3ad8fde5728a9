"""A trained network for masks, boxes or joints with its task and its test images: the subject of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torchmetrics import Metric

from capsule_lightning.components.build import build
from capsule_lightning.components.names import modern_path
from capsule_lightning.components.slots import Slot, arguments, find_class
from capsule_lightning.data.module import DataModule
from capsule_lightning.errors import InputError, require
from capsule_lightning.models.detector import Detector
from capsule_lightning.models.pose import PoseNet
from capsule_lightning.models.segmentation import SegmentationNet
from capsule_lightning.report.source import Source
from capsule_lightning.sharing.network_file import Network
from capsule_lightning.tasks.annotated import AnnotatedTask

MOST = 2_000  # test images that are examined
ROOTS = ("root", "path", "folder", "pictures")
"""Arguments of data modules that say where the data are; the first that a class has is meant by ``--data.root``."""


@dataclass(frozen=True)
class AnnotatedNetwork:
    """A network for masks, boxes or joints, ready to look at images.

    Attributes:
        task: with the network, in evaluation mode.
        data: set up for the images.
        known: whether the truth about the images is known; not of pictures of one's own.
        title: title of the page.
        facts: names and values for the table of the page.
        config: configuration of the run as YAML; None if it is not known.
    """

    task: AnnotatedTask
    data: DataModule
    known: bool
    title: str
    facts: Mapping[str, str]
    config: str | None

    @property
    def names(self) -> list[str]:
        """Names of the classes, without a background, or of the joints."""
        return list(self.data.class_names)

    @torch.no_grad()
    def seen(self) -> Iterator[tuple[Any, Any, Any]]:
        """Give batches of at most `MOST` images, and what the task makes of each: its output and its prediction."""
        loader, count = (self.data.test_dataloader() if self.known else self.data.predict_dataloader()), 0
        for stored in loader:
            if count >= MOST:
                return
            batch = self.data.on_after_batch_transfer(stored, 0)
            count += len(batch.indices)
            output = self.task.output(batch)
            yield batch, output, self.task.prediction(output, batch)


class Findings(NamedTuple):
    """What is found out about a network for masks, boxes or joints.

    Attributes:
        facts: names and values for the table of the page.
        pictures: headings, captions and data URLs.
        heading: of the table of numbers.
        columns: what the numbers are.
        rows: the numbers of each class or joint, by its name.
    """

    facts: Mapping[str, str]
    pictures: Sequence[Any]
    heading: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float]]]


def is_annotated(net: Network) -> bool:
    """Return whether a network is for masks, boxes or joints."""
    return isinstance(net, SegmentationNet | Detector | PoseNet)


def load_annotated(source: Source, root: str | None = None, images: str | Path | None = None) -> AnnotatedNetwork:
    """Build the task and the data of a network for masks, boxes or joints.

    Args:
        source: the network, with the configuration of its run.
        root: where the data are, if they have moved.
        images: pictures of one's own to look at in place of the test images, of which nothing is known then.

    Raises:
        InputError: the configuration cannot be used, the data are missing, or they are of other classes.
    """
    config = dict(source.settings())
    try:
        slot = config["data"] = {**config["data"], "init_args": dict(config["data"].get("init_args") or {})}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{source.config_file}: says nothing of the data; expected one that `fit` has written"
        ) from error
    if images is not None:
        slot["init_args"]["images"] = str(images)
    if root is not None:
        slot["init_args"][_place(config, source)] = root
    task, data = build(config)
    require(
        isinstance(task, AnnotatedTask) and type(task.net) is type(source.net),
        f"{source.config_file}: describes a {type(task).__name__}, and {source.path} has a {type(source.net).__name__}",
    )
    assert isinstance(task, AnnotatedTask)
    about = source.about
    if about is not None:
        about.require_same_names(task.names_of_network(data), str(source.path))
    if images is None:
        data.prepare_data()
    data.setup("test" if images is None else "predict")
    task.net = source.net
    task.eval()
    told = str(images) if images is not None else getattr(data, "name", None) or type(data).__name__
    return AnnotatedNetwork(task, data, images is None, source.title(config), source.facts(told), source.config)


def _place(config: Mapping[str, Any], source: Source) -> str:
    """Return the argument that says where the data are."""
    made = find_class(modern_path(str(config["data"].get("class_path"))), Slot((DataModule,)))
    found = next((name for name in ROOTS if name in arguments(made)), None)
    require(found is not None, f"--data.root: {made.__name__} of {source.path} is made on the spot, and is nowhere")
    return str(found)


def of_images(about: AnnotatedNetwork, count: int) -> dict[str, str]:
    """Return how many images were looked at, by name."""
    if not about.known:
        return {"images": f"{count:,} of which nothing is known"}
    return {"images": f"{count:,} test images" + (", the first ones" if count >= MOST else "")}


def told(metrics: Mapping[str, Metric]) -> dict[str, str]:
    """Return the values of metrics, by name."""
    values = {name: float(metric.compute()) for name, metric in metrics.items()}
    return {f"test {name}": f"{value:.4g}" for name, value in values.items() if value == value}
