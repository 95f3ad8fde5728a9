"""A table of test images to look through: some that the network gets wrong, some it is unsure of, some at random."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import lightning as L
import numpy as np
from torch import Tensor
from typing_extensions import override

from capsule_lightning.callbacks.collected import confidences, named, of_all_processes, offers, offers_pictures
from capsule_lightning.callbacks.informing import Informing
from capsule_lightning.data.base import ImageBatch, ImageDataModule
from capsule_lightning.errors import require
from capsule_lightning.figures.tiles import as_array
from capsule_lightning.tasks.image_classification import Prediction

Reason = Literal["wrong", "unsure", "chance"]

TABLE = "test/samples"
SIDE = 64
"""Fewest pixels of a picture's longer side; a smaller picture is enlarged by a whole number, without exceeding it."""


class Sample(NamedTuple):
    """A test image and what the network says about it.

    Attributes:
        number: its number in the test set.
        labels: the labels of the image.
        classes: the predicted classes, each at the place of the label it is compared with.
        confidence: length of the capsule of the class, in [0, 1]; of several, the shortest.
        pictures: the image and, if there is a decoder, its reconstruction; each ``(H, W)`` or ``(H, W, 3)`` uint8.
    """

    number: int
    labels: list[int]
    classes: list[int]
    confidence: float
    pictures: list[np.ndarray]

    @property
    def right(self) -> bool:
        """Whether all classes are right."""
        return self.classes == self.labels


class PredictionSamples(Informing):
    """Logs a table of test images, with predictions and reconstructions, to every logger that takes tables.

    Up to half of its rows are wrong predictions, the most confident first, and up to a quarter right ones, the least
    confident first. The rest are chosen at random, and are the same images in all runs on the same data. With several
    processes the table covers all test images, and the first process logs it. Predictions without ``classes`` and
    ``activations`` are left out.

    Args:
        count: most rows of the table.

    Raises:
        InputError: a ``count`` below 1.
    """

    def __init__(self, count: int = 64) -> None:
        require(count >= 1, f"PredictionSamples: count={count}: expected at least 1")
        self.count = count
        self._kept: list[Sample] = []

    @override
    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the images that may get into the table."""
        drawable = offers(outputs, "classes", "activations") and offers(batch, "labels", "indices", "pictures")
        if not drawable or not offers_pictures(batch) or not table_loggers(trainer):
            return
        found = samples(outputs, batch)
        kept = {sample.number: sample for sample in shortlist([*self._kept, *found], self.count)}
        new = [n for n, sample in enumerate(found) if sample.number in kept]
        for n, pictures in zip(new, drawn(outputs, batch, new), strict=True):
            kept[found[n].number] = found[n]._replace(pictures=pictures)
        self._kept = list(kept.values())

    @override
    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather what all processes have kept, and log the table."""
        kept, self._kept = of_all_processes(trainer, self._kept), []
        if not kept or not trainer.is_global_zero:
            return
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        columns = ["image", "chosen as", "label", "prediction", "confidence", "picture", "reconstruction"]
        columns = columns[: 5 + len(kept[0].pictures)]
        rows = [
            [
                data.name_of(sample.number),
                reason,
                *(", ".join(data.class_names[c] for c in each) for each in (sample.labels, sample.classes)),
                sample.confidence,
                *sample.pictures,
            ]
            for reason, sample in choose(kept, self.count)
        ]
        for logger in table_loggers(trainer):
            logger.log_table(TABLE, columns=columns, data=rows, step=max(trainer.global_step - 1, 0))


def table_loggers(trainer: L.Trainer) -> list[Any]:
    """Return the loggers that take tables; none in a trial run of a single batch (``fast_dev_run``)."""
    trial = getattr(trainer, "fast_dev_run", False)
    return [] if trial else [logger for logger in trainer.loggers if hasattr(logger, "log_table")]


def samples(prediction: Prediction, batch: ImageBatch) -> list[Sample]:
    """Return all images of a batch, without their pictures."""
    labels, classes = (each.reshape(len(each), -1) for each in (batch.labels, prediction.classes))  # (B, L)
    sure = confidences(prediction.activations.float(), classes)
    columns = (batch.indices.tolist(), map(named, labels.tolist()), map(named, classes.tolist()), sure.tolist())
    return [Sample(number, true, said, sure, []) for number, true, said, sure in zip(*columns, strict=True)]


def drawn(prediction: Prediction, batch: ImageBatch, chosen: list[int]) -> list[list[np.ndarray]]:
    """Return pictures of some images of a batch, and their reconstructions if there are any.

    If an image has several objects, their reconstructions are laid on top of each other.
    """
    several = batch.pictures.ndim > 4
    columns = [(batch.images if several else batch.pictures)[chosen]]
    if offers(prediction, "reconstructions"):
        found = prediction.reconstructions[chosen]  # type: ignore[index]
        columns.append(found.amax(dim=1) if several else found)
    return [[as_bytes(image) for image in row] for row in zip(*(column.cpu() for column in columns), strict=True)]


def as_bytes(image: Tensor) -> np.ndarray:
    """Return an image ``(C, H, W)`` in [0, 1] as ``(H, W)`` or ``(H, W, 3)`` uint8, enlarged if it is small."""
    array = (255 * as_array(image)).round().astype(np.uint8)
    times = max(1, SIDE // max(array.shape[:2]))
    return array.repeat(times, axis=0).repeat(times, axis=1)


def shortlist(found: Iterable[Sample], count: int) -> list[Sample]:
    """Return the samples that `choose` may still take when others are added; at most 7/4 of ``count``."""
    ranked = ranks(found)
    shares: dict[Reason, int] = {"wrong": count // 2, "unsure": count // 4, "chance": count}
    return list({each.number: each for reason, share in shares.items() for each in ranked[reason][:share]}.values())


def choose(found: Iterable[Sample], count: int) -> list[tuple[Reason, Sample]]:
    """Return the rows of the table, which do not depend on the order of the samples.

    Args:
        found: every image once.
        count: most rows.
    """
    ranked = ranks(found)
    chosen: list[tuple[Reason, Sample]] = [("wrong", each) for each in ranked["wrong"][: count // 2]]
    chosen += [("unsure", each) for each in ranked["unsure"][: count // 4]]
    taken = {each.number for _, each in chosen}
    rest = [each for each in ranked["chance"] if each.number not in taken]
    return chosen + [("chance", each) for each in rest[: count - len(chosen)]]


def ranks(found: Iterable[Sample]) -> dict[Reason, Sequence[Sample]]:
    """Return the samples by each reason to choose one, the first to be chosen first."""
    every = list(found)
    return {
        "wrong": sorted((s for s in every if not s.right), key=lambda s: (-s.confidence, s.number)),
        "unsure": sorted((s for s in every if s.right), key=lambda s: (s.confidence, s.number)),
        "chance": sorted(every, key=lambda s: blake2b(str(s.number).encode(), digest_size=8).digest()),
    }
