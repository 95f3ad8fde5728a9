"""What callbacks take from predictions, and the table that ``predict`` writes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import distributed
from typing_extensions import override

from capsule_lightning.data.base import ImageDataModule

PredictionRow = tuple[int, list[int], list[int], float, float | str, list[float]]
Each = TypeVar("Each")


def offers(values: object, *fields: str) -> bool:
    """Return whether a prediction or a batch has all of some fields, none of them None.

    Example:
        >>> from types import SimpleNamespace
        >>> prediction = SimpleNamespace(classes=[3], reconstructions=None)
        >>> offers(prediction, "classes"), offers(prediction, "classes", "reconstructions")
        (True, False)
    """
    return all(getattr(values, field, None) is not None for field in fields)


def of_all_processes(trainer: L.Trainer, rows: list[Each]) -> list[Each]:
    """Return what all processes of a run have collected, one after the other; every process calls this."""
    if trainer.world_size == 1:
        return rows
    parts: list[list[Each]] = [[] for _ in range(trainer.world_size)]
    distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


class PredictionTable(L.Callback):
    """Writes ``predictions.csv``: image, label, prediction, confidence, reconstruction error, all capsules' lengths.

    The confidence is the length of the predicted capsule. If an image has several labels, they and their predictions
    share a cell, and the confidence is that of the least certain one. Predictions without ``classes`` and
    ``activations`` are left out.
    """

    def __init__(self) -> None:
        self._rows: list[PredictionRow] = []

    @override
    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if not offers(outputs, "classes", "activations") or not offers(batch, "labels", "indices"):
            return
        errors = outputs.errors.tolist() if offers(outputs, "errors") else [""] * len(batch.labels)
        labels, classes = (each.reshape(len(each), -1) for each in (batch.labels, outputs.classes))  # (B, L)
        self._rows += zip(
            batch.indices.tolist(),
            labels.tolist(),
            classes.tolist(),
            outputs.activations.gather(1, classes).amin(dim=1).tolist(),
            errors,
            outputs.activations.tolist(),
            strict=True,
        )

    @override
    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the rows of all processes and write them in the order of the images."""
        rows, self._rows = of_all_processes(trainer, self._rows), []
        if not rows or not trainer.is_global_zero:
            return
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        names = data.class_names
        path = Path(trainer.default_root_dir) / "predictions.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            header = ("image", "label", "prediction", "confidence", "reconstruction_error")
            writer.writerow((*header, *(f"length_{name}" for name in names)))
            for index, labels, classes, confidence, error, lengths in sorted(rows):
                true, predicted = (", ".join(names[c] for c in each if c >= 0) for each in (labels, classes))
                writer.writerow((data.name_of(index), true, predicted, confidence, error, *lengths))
        rank_zero_info(f"{len(rows)} predictions: {path}")
