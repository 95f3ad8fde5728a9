"""A table of test images to look through: where the network is wrong, where it is unsure, and a few by chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import lightning as L
import numpy as np
from torch import Tensor

from capsule_lightning.callbacks.predictions import of_all_processes
from capsule_lightning.data.base import ImageBatch, ImageDataModule
from capsule_lightning.errors import InputError
from capsule_lightning.figures.tiles import as_array
from capsule_lightning.tasks.classification import Prediction
from capsule_lightning.tasks.multilabel import MultiLabelPrediction

Reason = Literal["wrong", "unsure", "chance"]

TABLE = "test/samples"
SIDE = 64
"""Pixels that the longer side of a picture has at least, as far as whole multiples go."""


class Sample(NamedTuple):
    """A test image and what the network says of it.

    Attributes:
        number: in the test set.
        labels: of the image; several where it has several.
        classes: predicted, each at the place of the label it is compared with.
        confidence: length of the capsule of the class, in [0, 1]; of several, the shortest.
        pictures: the image and, where there is a decoder, its reconstruction; each ``(H, W)`` or ``(H, W, 3)`` uint8.
    """

    number: int
    labels: list[int]
    classes: list[int]
    confidence: float
    pictures: list[np.ndarray]

    @property
    def right(self) -> bool:
        """Whether all classes are."""
        return self.classes == self.labels


class PredictionSamples(L.Callback):
    """Logs a table of test images, with predictions and reconstructions, to every logger that takes tables.

    Up to half of it are wrong predictions, the surest first, and up to a quarter right ones, the least sure first. The
    rest are chosen by chance, and are the same images in all runs on the same data. Under several processes the table
    is that of all test images, and the first process logs it.

    Args:
        count: rows at most.

    Raises:
        InputError: a ``count`` below 1.
    """

    def __init__(self, count: int = 64) -> None:
        if count < 1:
            raise InputError(f"PredictionSamples: count={count}: expected at least 1")
        self.count = count
        self._kept: list[Sample] = []

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the images that may get into the table."""
        if not isinstance(outputs, Prediction | MultiLabelPrediction) or not table_loggers(trainer):
            return
        found = samples(outputs, batch)
        kept = {sample.number: sample for sample in shortlist([*self._kept, *found], self.count)}
        new = [n for n, sample in enumerate(found) if sample.number in kept]
        for n, pictures in zip(new, drawn(outputs, batch, new), strict=True):
            kept[found[n].number] = found[n]._replace(pictures=pictures)
        self._kept = list(kept.values())

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
    """The loggers that take tables; none in a trial run of a single batch (``fast_dev_run``)."""
    trial = getattr(trainer, "fast_dev_run", False)
    return [] if trial else [logger for logger in trainer.loggers if hasattr(logger, "log_table")]


def samples(prediction: Prediction | MultiLabelPrediction, batch: ImageBatch) -> list[Sample]:
    """All images of a batch, without their pictures."""
    labels, classes = (each.reshape(len(each), -1) for each in (batch.labels, prediction.classes))  # (B, L)
    confidences = prediction.activations.float().gather(1, classes).amin(dim=1)  # (B)
    columns = (batch.indices.tolist(), labels.tolist(), classes.tolist(), confidences.tolist())
    return [Sample(number, true, said, sure, []) for number, true, said, sure in zip(*columns, strict=True)]


def drawn(
    prediction: Prediction | MultiLabelPrediction, batch: ImageBatch, chosen: list[int]
) -> list[list[np.ndarray]]:
    """Pictures of some images of a batch, and their reconstructions where there are any.

    Of several objects in an image, what is reconstructed of each is laid on top of the others.
    """
    several = batch.labels.ndim > 1
    columns = [(batch.images if several else batch.pictures)[chosen]]
    if prediction.reconstructions is not None:
        found = prediction.reconstructions[chosen]
        columns.append(found.amax(dim=1) if several else found)
    return [[as_bytes(image) for image in row] for row in zip(*(column.cpu() for column in columns), strict=True)]


def as_bytes(image: Tensor) -> np.ndarray:
    """An image ``(C, H, W)`` in [0, 1] as ``(H, W)`` or ``(H, W, 3)`` uint8, small ones enlarged without smoothing."""
    array = (255 * as_array(image)).round().astype(np.uint8)
    times = max(1, SIDE // max(array.shape[:2]))
    return array.repeat(times, axis=0).repeat(times, axis=1)


def shortlist(found: Iterable[Sample], count: int) -> list[Sample]:
    """Samples that `choose` may take when others are added; at most 7/4 of ``count``."""
    ranked = ranks(found)
    shares: dict[Reason, int] = {"wrong": count // 2, "unsure": count // 4, "chance": count}
    return list({each.number: each for reason, share in shares.items() for each in ranked[reason][:share]}.values())


def choose(found: Iterable[Sample], count: int) -> list[tuple[Reason, Sample]]:
    """The rows of the table, whatever the order of the samples.

    Args:
        found: every image once.
        count: rows at most.
    """
    ranked = ranks(found)
    chosen: list[tuple[Reason, Sample]] = [("wrong", each) for each in ranked["wrong"][: count // 2]]
    chosen += [("unsure", each) for each in ranked["unsure"][: count // 4]]
    taken = {each.number for _, each in chosen}
    rest = [each for each in ranked["chance"] if each.number not in taken]
    return chosen + [("chance", each) for each in rest[: count - len(chosen)]]


def ranks(found: Iterable[Sample]) -> dict[Reason, Sequence[Sample]]:
    """Samples by each reason to take one, the first to be taken first."""
    every = list(found)
    return {
        "wrong": sorted((s for s in every if not s.right), key=lambda s: (-s.confidence, s.number)),
        "unsure": sorted((s for s in every if s.right), key=lambda s: (s.confidence, s.number)),
        "chance": sorted(every, key=lambda s: blake2b(str(s.number).encode(), digest_size=8).digest()),
    }
