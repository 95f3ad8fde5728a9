"""The confusion matrix of a test."""

from __future__ import annotations

import csv
from pathlib import Path

import lightning as L
from typing_extensions import override

from capsule_lightning.callbacks.figures import publish


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
        from capsule_lightning.figures.confusion import confusion_figure

        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        accuracy = float(matrix.diagonal().sum() / matrix.sum())
        publish(trainer, "test/confusion", confusion_figure(matrix, names, f"Test accuracy {100 * accuracy:.2f} %"))
        with (Path(trainer.default_root_dir) / "confusion.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("true", *names))
            writer.writerows((name, *row) for name, row in zip(names, matrix.tolist(), strict=True))
