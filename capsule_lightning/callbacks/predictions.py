"""The table that ``predict`` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from typing_extensions import override

from capsule_lightning.callbacks.calibration import Calibrated, Calibration
from capsule_lightning.callbacks.collected import confidences, named, of_all_processes, offers
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.trained_on import TrainedOn, unlike_training
from capsule_lightning.runs.csv_text import csv_text
from capsule_lightning.runs.files import open_whole
from capsule_lightning.runs.folders import expanded
from capsule_lightning.runs.results import from_here
from capsule_lightning.tasks.classification import ClassificationTask
from capsule_lightning.tasks.images import ImageTask

SHOWN = 20
"""Most predictions that are printed."""


class Row(NamedTuple):
    """What is kept of one image.

    Attributes:
        number: its place in the data.
        labels: its labels; -1 if they are not known.
        classes: the predicted classes.
        confidence: length of the predicted capsule; of several, of the shortest.
        error: reconstruction error; None without a decoder.
        brightness: its mean in [0, 1].
        lengths: ``(J)``, of the class capsules.
        poses: ``(J, E)``; None unless they are asked for.
        probability: of the predicted class, at the temperature that the checkpoint holds; None if it holds none.
        likely: classes of the conformal set; None if the checkpoint knows none.
    """

    number: int
    labels: list[int]
    classes: list[int]
    confidence: float
    error: float | None
    brightness: float
    lengths: list[float]
    poses: np.ndarray | None
    probability: float | None = None
    likely: list[int] | None = None


class PredictionTable(L.Callback):
    """Write the predictions as a table and print the first of them.

    Its columns are image, label, prediction, confidence, reconstruction error, and all capsules' lengths. The
    confidence is the length of the predicted capsule. Of a checkpoint that holds what `Calibration` has learned there
    are also the probability of the predicted class, and the set of classes that holds the true one as often as was
    asked for. If an image has several labels, they and their predictions share a cell, and the confidence is that of
    the least certain one; if none is predicted, it is 1 less the greatest length. Predictions without ``classes`` and
    ``activations`` are left out.

    Args:
        output: file of the table, a ``.csv``; null for ``predictions.csv`` in the folder of the command.
        poses: file for names, labels, classes, lengths and poses as NumPy arrays, a ``.npz``; null for none.
        overwrite: replace ``output`` and ``poses`` if they are there.
    """

    def __init__(self, output: str | None = None, poses: str | None = None, overwrite: bool = False) -> None:
        self.output, self.poses, self.overwrite = output, poses, overwrite
        self._rows: list[Row] = []
        self._said: list[str] = []

    @override
    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if not offers(outputs, "classes", "activations") or not offers(batch, "labels", "indices", "pictures"):
            return
        count, known = len(batch.labels), calibrated(trainer)
        labels, classes = (each.reshape(count, -1) for each in (batch.labels, outputs.classes))  # (B, L)
        self._rows += map(
            Row,
            batch.indices.tolist(),
            labels.tolist(),
            classes.tolist(),
            confidences(outputs.activations, classes).tolist(),
            outputs.errors.tolist() if offers(outputs, "errors") else [None] * count,
            batch.pictures.reshape(count, -1).mean(dim=1).tolist(),
            outputs.activations.tolist(),
            outputs.poses.float().cpu().numpy() if self.poses and offers(outputs, "poses") else [None] * count,
            *likely(known, pl_module, outputs, count),
        )

    @override
    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the rows of all processes and write them in the order of the images."""
        rows, self._rows = of_all_processes(trainer, self._rows), []
        if not rows or not trainer.is_global_zero:
            return
        rows.sort(key=lambda row: row.number)
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        names = [data.name_of(row.number) for row in rows]
        folder = Path(trainer.default_root_dir)
        path = folder / "predictions.csv" if self.output is None else expanded(self.output, "--output")
        replace = self.overwrite or self.output is None
        text = table(rows, names, data.class_names)
        with open_whole(
            path, overwrite=replace, make_folder=self.output is None, remedy="choose another --output"
        ) as file:
            file.write(text.encode())
        written = [f"{len(rows):,} predictions: {from_here(path)}"]
        if self.poses is not None:
            place = expanded(self.poses, "--poses")
            with open_whole(place, overwrite=self.overwrite, remedy="choose another --poses") as file:
                np.savez(file, **arrays(rows, names, data.class_names))  # type: ignore[arg-type]
            written.append(f"poses: {from_here(place)}")
        known = pl_module.trained_on if isinstance(pl_module, ImageTask) else None
        strange = strangeness(rows, known)
        self._said = [*shown(rows, names, data.class_names), *strange, *written]

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print what was found, once the progress bar is gone."""
        said, self._said = self._said, []
        if said:
            print("\n".join(said), flush=True)


def calibrated(trainer: L.Trainer) -> Calibrated | None:
    """Return what the trainer's checkpoint knows of how sure its network may be; None if it knows nothing."""
    found = [each.found for each in trainer.callbacks if isinstance(each, Calibration)]  # type: ignore[attr-defined]
    return found[0] if found else None


def likely(
    known: Calibrated | None, task: L.LightningModule, outputs: Any, count: int
) -> tuple[Sequence[float | None], Sequence[list[int] | None]]:
    """Return of each image the probability of its predicted class, and the classes of its conformal set."""
    if known is None or not isinstance(task, ClassificationTask):
        return [None] * count, [None] * count
    scores = task.loss.probabilities(outputs.activations).cpu()
    probabilities = known.probabilities(scores).gather(1, outputs.classes.cpu().unsqueeze(1)).flatten()
    return probabilities.tolist(), [each.nonzero().flatten().tolist() for each in known.sets(scores)]


def table(rows: Sequence[Row], names: Sequence[str], class_names: Sequence[str]) -> str:
    """Return predictions as the text of a CSV file."""
    header = ("image", "label", "prediction", "confidence", "reconstruction_error")
    sure = ("probability", "set") if rows[0].likely is not None else ()
    lines: list[Sequence[object]] = [(*header, *sure, *(f"length_{name}" for name in class_names))]
    for row, name in zip(rows, names, strict=True):
        true, predicted = in_words(row.labels, class_names), in_words(row.classes, class_names)
        error = "" if row.error is None else row.error
        told = () if row.likely is None else (row.probability, in_words(row.likely, class_names))
        lines.append((name, true, predicted, row.confidence, error, *told, *row.lengths))
    return csv_text(lines)


def arrays(rows: Sequence[Row], names: Sequence[str], class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return predictions as arrays by name: N images, J classes, poses of E numbers.

    Returns:
        ``names (N)``, ``class_names (J)``, ``labels`` and ``classes (N)`` or, of L labels, ``(N, L)``, ``lengths (N,
        J)``, and ``poses (N, J, E)`` if they are known.
    """
    labels, classes = (np.array(each) for each in ([row.labels for row in rows], [row.classes for row in rows]))
    found = {
        "names": np.array(names, dtype=str),
        "class_names": np.array(list(class_names), dtype=str),
        "labels": labels[:, 0] if labels.shape[1] == 1 else labels,
        "classes": classes[:, 0] if classes.shape[1] == 1 else classes,
        "lengths": np.array([row.lengths for row in rows], dtype=np.float32),
    }
    poses = [row.poses for row in rows if row.poses is not None]
    return {**found, "poses": np.stack(poses)} if poses else found


def shown(rows: Sequence[Row], names: Sequence[str], class_names: Sequence[str], most: int = SHOWN) -> list[str]:
    """Return the first predictions, a line for each, and how many are right if the labels are known."""
    width = max(len(name) for name in names[:most])
    lines = [
        f"{name:<{width}}  {in_words(row.classes, class_names)} ({row.confidence:.2f})"
        for row, name in zip(rows[:most], names, strict=False)
    ]
    if len(rows) > most:
        lines.append(f"... and {len(rows) - most:,} more")
    labeled = [row for row in rows if len(row.labels) > 1 or row.labels[0] >= 0]
    if labeled:
        right = sum(named(row.labels) == named(row.classes) for row in labeled)
        lines.append(f"accuracy: {100 * right / len(labeled):.2f} % ({right:,} of {len(labeled):,})")
    return lines


def strangeness(rows: Sequence[Row], known: TrainedOn | None) -> list[str]:
    """Return a line about images that are far brighter or darker than the training images, if there are any."""
    if known is None or known.brightness is None:
        return []
    bright, dark, inverted = unlike_training(torch.tensor([row.brightness for row in rows]), known.brightness)
    count, how = max((bright, "brighter"), (dark, "darker"))
    if not count:
        return []
    remedy = "inverted? --data.invert true" if inverted else "their predictions may mean nothing"
    return [f"{count:,} of {len(rows):,} images are far {how} than the training images; {remedy}"]


def in_words(numbers: Sequence[int], class_names: Sequence[str]) -> str:
    """Return the names of classes; empty for one that is not known."""
    return ", ".join(class_names[number] for number in numbers if number >= 0)
