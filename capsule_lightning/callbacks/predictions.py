"""The table that ``predict`` writes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

import lightning as L
import torch
from typing_extensions import override

from capsule_lightning.callbacks.calibration import Calibrated, Calibration
from capsule_lightning.callbacks.collected import confidences, damaged_of_all_processes, named, of_all_processes, offers
from capsule_lightning.callbacks.prediction_files import (
    LINES,
    PARQUET,
    CSVTable,
    EmbeddingsFile,
    Lines,
    ParquetTable,
    PredictionFile,
    Row,
    in_words,
)
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.trained_on import TrainedOn, unlike_training
from capsule_lightning.runs.folders import expanded
from capsule_lightning.runs.results import from_here
from capsule_lightning.tasks.classification import ClassificationTask
from capsule_lightning.tasks.images import ImageTask

SHOWN = 20
"""Most predictions that are printed."""
LONGEST = 80
"""Most characters of a name, or of a text, that are printed."""


class PredictionTable(L.Callback):
    """Write the predictions as a table, batch after batch, and print the first of them.

    Its columns are image (or text, sentence, vector), label, prediction, confidence, reconstruction error, and all
    capsules' lengths. The confidence is the length of the predicted capsule. Of a checkpoint that holds what
    `Calibration` has learned there are also the probability of the predicted class, and the set of classes that holds
    the true one as often as was asked for. If an image has several labels, they and their predictions share a cell, and
    the confidence is that of the least certain one; if none is predicted, it is 1 less the greatest length. Predictions
    without ``classes`` and ``activations`` are left out, and so are images that could not be read, if they may be left
    out.

    Args:
        output: file of the table, a ``.csv``, a ``.parquet``, or a ``.txt`` of the predictions alone; null for
            ``predictions.csv`` in the folder of the command.
        embeddings: file for names, labels, classes, lengths and poses of the class capsules as NumPy arrays, a
            ``.npz``; null for none.
        overwrite: replace ``output`` and ``embeddings`` if they are there.
    """

    def __init__(self, output: str | None = None, embeddings: str | None = None, overwrite: bool = False) -> None:
        self.output, self.embeddings, self.overwrite = output, embeddings, overwrite
        self._files: list[PredictionFile] = []
        self._rounds = 0  # batches that processes have not brought together yet
        self._summary = Summary()
        self._said: list[str] = []

    @override
    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Agree with the other processes on how many batches there are: one of them may have one more."""
        self._files, self._summary = [], Summary()
        self._rounds = int(max(of_all_processes(trainer, [sum(trainer.num_predict_batches)])))

    @override
    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write the rows of this batch of all processes, in the order of the images."""
        self._rounds -= 1
        self._write(trainer, self._rows(trainer, pl_module, outputs, batch))

    @override
    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the files take their places."""
        for _ in range(self._rounds):  # of processes that have a batch more
            self._write(trainer, [])
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._said += damaged_of_all_processes(trainer)
        if not trainer.is_global_zero:
            return
        files, self._files = self._files, []
        if not files:
            return
        for file in files:
            file.finish()
        known = pl_module.trained_on if isinstance(pl_module, ImageTask) else None
        summary = self._summary
        written = [f"{summary.count:,} predictions: {from_here(files[0].path)}"]
        written += [f"embeddings: {from_here(file.path)}" for file in files[1:]]
        self._said += [*summary.lines(data.class_names), *strangeness(summary.brightness, known), *written]

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the places of the files as they were: half a table looks like a whole one."""
        files, self._files = self._files, []
        for file in files:
            file.abandon()

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print what was found, once the progress bar is gone."""
        said, self._said = self._said, []
        if said:
            print("\n".join(said), flush=True)

    def _rows(self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any) -> list[Row]:
        """Return the rows of a batch of this process."""
        if not offers(outputs, "classes", "activations") or not offers(batch, "labels", "indices"):
            return []
        count, known = len(batch.labels), calibrated(trainer)
        labels, classes = (each.reshape(count, -1) for each in (batch.labels, outputs.classes))  # (B, L)
        rows = map(
            Row,
            batch.indices.tolist(),
            labels.tolist(),
            classes.tolist(),
            confidences(outputs.activations, classes).tolist(),
            outputs.errors.tolist() if offers(outputs, "errors") else [None] * count,
            batch.pictures.reshape(count, -1).mean(dim=1).tolist() if offers(batch, "pictures") else [nan] * count,
            outputs.activations.tolist(),
            outputs.poses.float().cpu().numpy() if self.embeddings and offers(outputs, "poses") else [None] * count,
            *likely(known, task, outputs, count),
        )
        damaged = getattr(trainer.datamodule, "damaged", {})  # type: ignore[attr-defined]
        return [row for row in rows if row.number not in damaged]

    def _write(self, trainer: L.Trainer, mine: list[Row]) -> None:
        """Add the rows that all processes have of a batch to the files, which the first rows open."""
        rows = of_all_processes(trainer, mine)
        if not rows or not trainer.is_global_zero:
            return
        rows.sort(key=lambda row: row.number)
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        names = [data.name_of(row.number) for row in rows]
        if not self._files:
            self._open(Path(trainer.default_root_dir), data)
        for file in self._files:
            file.add(rows, names)
        self._summary.add(rows, names)

    def _open(self, folder: Path, data: ImageDataModule) -> None:
        path = folder / "predictions.csv" if self.output is None else expanded(self.output, "--output")
        usual = self.output is None
        kind = {PARQUET: ParquetTable, LINES: Lines}.get(path.suffix, CSVTable)
        options = {"overwrite": self.overwrite or usual, "make_folder": usual, "example": data.example_name}
        self._files.append(kind(path, data.class_names, **options))
        if self.embeddings is not None:
            place = expanded(self.embeddings, "--embeddings")
            more = EmbeddingsFile(place, data.class_names, overwrite=self.overwrite, option="--embeddings")
            self._files.append(more)


class Summary:
    """What is told of predictions once all are there.

    Attributes:
        count: number of images.
        first: the first of them, with their names.
        labeled: how many have labels that are known.
        right: how many of these are predicted right.
        brightness: of each image.
    """

    def __init__(self) -> None:
        self.count = self.labeled = self.right = 0
        self.first: list[tuple[Row, str]] = []
        self.brightness = array("f")

    def add(self, rows: Sequence[Row], names: Sequence[str]) -> None:
        """Count more images."""
        self.count += len(rows)
        self.first += [*zip(rows, names, strict=True)][: SHOWN - len(self.first)]
        labeled = [row for row in rows if len(row.labels) > 1 or row.labels[0] >= 0]
        self.labeled += len(labeled)
        self.right += sum(named(row.labels) == named(row.classes) for row in labeled)
        self.brightness.extend(row.brightness for row in rows)

    def lines(self, class_names: Sequence[str]) -> list[str]:
        """Return a line for each of the first predictions, and how many are right if labels are known."""
        names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..." for _, name in self.first]
        width = max(map(len, names))
        lines = [
            f"{name:<{width}}  {in_words(row.classes, class_names)} ({row.confidence:.2f})"
            for name, (row, _) in zip(names, self.first, strict=True)
        ]
        if self.count > len(self.first):
            lines.append(f"... and {self.count - len(self.first):,} more")
        if self.labeled:
            share = 100 * self.right / self.labeled
            lines.append(f"accuracy: {share:.2f} % ({self.right:,} of {self.labeled:,})")
        return lines


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


def strangeness(brightness: Sequence[float], known: TrainedOn | None) -> list[str]:
    """Return a line about images that are far brighter or darker than the training images, if there are any."""
    if known is None or known.brightness is None:
        return []
    bright, dark, inverted = unlike_training(torch.tensor(brightness), known.brightness)
    count, how = max((bright, "brighter"), (dark, "darker"))
    if not count:
        return []
    remedy = "inverted? --data.invert true" if inverted else "their predictions may mean nothing"
    return [f"{count:,} of {len(brightness):,} images are far {how} than the training images; {remedy}"]
