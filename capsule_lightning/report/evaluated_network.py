"""A trained network with its task and its test data: the subject of a report that is not about classes of images."""

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
from capsule_lightning.data.text import TextDataModule
from capsule_lightning.data.trained_on import TrainedOn
from capsule_lightning.data.translation import TranslationDataModule
from capsule_lightning.errors import InputError, require
from capsule_lightning.models.detector import Detector
from capsule_lightning.models.pose import PoseNet
from capsule_lightning.models.segmentation import SegmentationNet
from capsule_lightning.models.translation import TranslationNet
from capsule_lightning.models.words import WordNet
from capsule_lightning.report.source import Source
from capsule_lightning.sharing.network_file import Network
from capsule_lightning.tasks.annotated import AnnotatedTask
from capsule_lightning.tasks.base import Task

MOST = 2_000  # test examples that are examined
ROOTS = ("root", "path", "folder", "pictures", "table")
"""Arguments of data modules that say where the data are; the first that a class has is meant by ``--data.root``."""


@dataclass(frozen=True)
class EvaluatedNetwork:
    """A network for masks, boxes, joints, texts or translations, ready to look at its test data.

    Attributes:
        task: with the network, in evaluation mode.
        data: set up for them.
        known: whether the truth about them is known; not of pictures of one's own.
        title: title of the page.
        facts: names and values for the table of the page.
        config: configuration of the run as YAML; None if it is not known.
    """

    task: Task
    data: DataModule
    known: bool
    title: str
    facts: Mapping[str, str]
    config: str | None

    @property
    def names(self) -> list[str]:
        """Names of the classes, without a background, or of the joints; none of a network that translates."""
        return list(self.data.class_names)

    @property
    def what(self) -> str:
        """What the examples are called."""
        return f"{self.data.example_name}s"

    def batches(self, most: int = MOST) -> Iterator[Any]:
        """Give batches until there were ``most`` examples or more."""
        loader, count = (self.data.test_dataloader() if self.known else self.data.predict_dataloader()), 0
        for stored in loader:
            if count >= most:
                return
            batch = self.data.on_after_batch_transfer(self.data.on_before_batch_transfer(stored, 0), 0)
            count += len(batch.indices)
            yield batch

    @torch.no_grad()
    def seen(self, most: int = MOST) -> Iterator[tuple[Any, Any, Any]]:
        """Give `batches`, and what the task makes of each: its output and its prediction."""
        for batch in self.batches(most):
            output = self.task.output(batch)
            yield batch, output, self.task.prediction(output, batch)


class Findings(NamedTuple):
    """What is found out about a network.

    Attributes:
        facts: names and values for the table of the page.
        pictures: headings, captions and data URLs.
        heading: of the table of numbers.
        columns: what the numbers are.
        rows: the numbers of each class, joint or other part, by its name.
    """

    facts: Mapping[str, str]
    pictures: Sequence[Any]
    heading: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float]]]


def is_evaluated(net: Network) -> bool:
    """Return whether a report about a network is made of what its task says of test data: not of classes of images."""
    return reads_words(net) or isinstance(net, SegmentationNet | Detector | PoseNet)


def reads_words(net: Network) -> bool:
    """Return whether a network takes texts, sentences with two entities, or sentences to translate."""
    return isinstance(net, WordNet | TranslationNet)


def load_evaluated(source: Source, root: str | None = None, images: str | Path | None = None) -> EvaluatedNetwork:
    """Build the task and the data of a network.

    Args:
        source: the network, with the configuration of its run.
        root: where the data are, if they have moved.
        images: pictures of one's own to look at in place of the test images, of which nothing is known then.

    Raises:
        InputError: the configuration cannot be used, the data are missing, or they are of other classes or in another
            vocabulary; or images are given to a network that reads.
    """
    config = dict(source.settings())
    try:
        slot = config["data"] = {**config["data"], "init_args": dict(config["data"].get("init_args") or {})}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{source.config_file}: says nothing of the data; expected one that `fit` has written"
        ) from error
    if images is not None:
        require(
            not reads_words(source.net),
            f"--images {images}: {source.path} reads texts; leave --images out to report on those of its test",
        )
        slot["init_args"]["images"] = str(images)
    if root is not None:
        slot["init_args"][_place(config, source)] = root
    about = source.about
    if about is not None and about.vocabulary is not None:
        slot["init_args"]["vocabulary"] = str(source.path)
    task, data = build(config)
    require(
        type(task.net) is type(source.net),
        f"{source.config_file}: describes a {type(task).__name__}, and {source.path} has a {type(source.net).__name__}",
    )
    if about is not None:
        require_same(about, task, data, str(source.path))
    if images is None:
        data.prepare_data()
    data.setup("test" if images is None else "predict")
    task.net = source.net
    task.eval()
    told = str(images) if images is not None else getattr(data, "name", None) or type(data).__name__
    return EvaluatedNetwork(task, data, images is None, source.title(config), source.facts(told), source.config)


def require_same(about: TrainedOn, task: Task, data: DataModule, source: str) -> None:
    """Refuse data of other classes, or in another vocabulary, than the network was trained on.

    Raises:
        InputError: the first difference.
    """
    if isinstance(task, AnnotatedTask):
        about.require_same_names(task.names_of_network(data), source)
    elif isinstance(data, TextDataModule):
        about.require_same(data, source)
    elif isinstance(data, TranslationDataModule):
        about.require_same_sentences(data, source)


def _place(config: Mapping[str, Any], source: Source) -> str:
    """Return the argument that says where the data are."""
    made = find_class(modern_path(str(config["data"].get("class_path"))), Slot((DataModule,)))
    taken = arguments(made)
    require(
        "test_path" not in taken,
        f"--data.root: {made.__name__} of {source.path} has files of its own to test on; leave the checkpoint in its "
        "run, and the files where they were",
    )
    found = next((name for name in ROOTS if name in taken), None)
    require(found is not None, f"--data.root: {made.__name__} of {source.path} is made on the spot, and is nowhere")
    return str(found)


def how_many(about: EvaluatedNetwork, count: int, what: str = "images", most: int = MOST) -> dict[str, str]:
    """Return how many examples were looked at, by name."""
    if not about.known:
        return {what: f"{count:,} of which nothing is known"}
    return {what: f"{count:,} test {what}" + (", the first ones" if count >= most else "")}


def told(metrics: Mapping[str, Metric]) -> dict[str, str]:
    """Return the values of metrics, by name."""
    values = {name: float(metric.compute()) for name, metric in metrics.items()}
    return {f"test {name}": f"{value:.4g}" for name, value in values.items() if value == value}
