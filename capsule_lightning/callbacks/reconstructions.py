"""Pictures of what the network reconstructs, during training and after."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from capsule_lightning.callbacks.figures import publish
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.errors import InputError
from capsule_lightning.tasks.classification import Prediction

Row = tuple[Tensor, Tensor, int, int, float]


class ReconstructionFigures(L.Callback):
    """After validation, test and prediction: the first images and their reconstructions, and the wrong ones.

    In training they are drawn after epochs 1, 2, 4, 8, ... and the last: often while much changes, and never at a cost.

    Args:
        count: images in each of the two figures.
    """

    def __init__(self, count: int = 20) -> None:
        if count < 1:
            raise InputError(f"ReconstructionFigures: count={count}: expected at least 1")
        self.count = count
        self._first: list[Row] = []
        self._wrong: list[Row] = []

    def _collect(self, prediction: Prediction, batch: ImageBatch) -> None:
        if prediction.reconstructions is None:
            return
        confidences = prediction.activations.amax(dim=-1)
        wrong = (prediction.classes != batch.labels) & (batch.labels >= 0)
        for rows, candidates in (
            (self._first, torch.arange(len(batch.labels))),
            (self._wrong, wrong.nonzero()[:, 0].cpu()),
        ):
            for n in candidates[: max(self.count - len(rows), 0)].tolist():
                picture, reconstruction = batch.pictures[n].cpu(), prediction.reconstructions[n].float().cpu()
                rows.append(
                    (picture, reconstruction, int(batch.labels[n]), int(prediction.classes[n]), float(confidences[n]))
                )

    def _publish(self, trainer: L.Trainer, stage: str) -> None:
        first, wrong = self._first, self._wrong
        self._first, self._wrong = [], []
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        from capsule_lightning.figures.reconstructions import reconstruction_figure

        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        when = f"{stage}, after {trainer.current_epoch + 1} epochs" if stage == "val" else stage
        for rows, name, title in (
            (first, "reconstructions", "Inputs and reconstructions"),
            (wrong, "wrong", "Wrong predictions and their reconstructions"),
        ):
            if rows:
                pictures, reconstructions, labels, classes, confidences = zip(*rows, strict=True)
                figure = reconstruction_figure(
                    torch.stack(pictures),
                    torch.stack(reconstructions),
                    [names[label] if label >= 0 else None for label in labels],
                    [names[c] for c in classes],
                    confidences,
                    f"{title} ({when})",
                )
                publish(trainer, f"{stage}/{name}", figure)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep a few images."""
        self._collect(outputs, batch)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep a few images."""
        self._collect(outputs, batch)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep a few images."""
        self._collect(outputs, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw them, in training only now and then."""
        epochs = trainer.current_epoch + 1
        if trainer.state.fn != TrainerFn.FITTING or epochs.bit_count() == 1 or epochs == trainer.max_epochs:
            self._publish(trainer, "val")
        else:
            self._first, self._wrong = [], []

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw them."""
        self._publish(trainer, "test")

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw them."""
        self._publish(trainer, "predict")
