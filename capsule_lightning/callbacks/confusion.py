"""The confusion matrix of a test."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from matplotlib.figure import Figure
from typing_extensions import override

from capsule_lightning.callbacks.figures import publish
from capsule_lightning.errors import StoppedError
from capsule_lightning.runs.csv_text import csv_text
from capsule_lightning.runs.files import write_whole


class ConfusionFigure(L.Callback):
    """Draws the task's confusion matrix after a test and writes it to ``confusion.csv``, whose rows are true classes.

    Tasks without a ``confusion`` matrix are left out.
    """

    @override
    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sum the matrix over all processes; the first one draws it."""
        confusion = getattr(pl_module, "confusion", None)
        if confusion is None:
            return
        matrix = confusion.compute().cpu()
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        table = csv_text([("true", *names), *((n, *row) for n, row in zip(names, matrix.tolist(), strict=True))])
        path = Path(trainer.default_root_dir) / "confusion.csv"
        write_whole(path, table, make_folder=True, remedy="make room, then test again", error=StoppedError)
        accuracy = float(matrix.diagonal().sum() / matrix.sum())

        def draw() -> Figure:
            from capsule_lightning.figures.confusion import confusion_figure

            return confusion_figure(matrix, names, f"Test accuracy {100 * accuracy:.2f} %")

        publish(trainer, "test/confusion", draw)
