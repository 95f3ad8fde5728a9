"""Pictures of what each dimension of a class capsule does, while it is learnt and after."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from capsule_lightning.callbacks.figures import publish
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.errors import InputError
from capsule_lightning.models.base import CapsuleNet


class PerturbationFigures(L.Callback):
    """After validation and test: the dimensions of the true class's capsule moved one by one, for the first images.

    In training they are drawn after epochs 1, 2, 4, 8, ... and the last. Steps aside for networks without a decoder and
    for images of several labels.

    Args:
        count: images, a figure for each.

    Raises:
        InputError: a ``count`` below 1.
    """

    def __init__(self, count: int = 2) -> None:
        if count < 1:
            raise InputError(f"PerturbationFigures: count={count}: expected at least 1")
        self.count = count
        self._first: ImageBatch | None = None

    def _keep(self, trainer: L.Trainer, batch: ImageBatch) -> None:
        if (
            self._first is None
            and trainer.is_global_zero
            and batch.labels.ndim == 1
            and bool((batch.labels >= 0).all())
        ):
            self._first = ImageBatch(*(part[: self.count] for part in batch))

    def _publish(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        first, self._first = self._first, None
        net = getattr(task, "net", None)
        if first is None or trainer.sanity_checking or not isinstance(net, CapsuleNet) or net.decoder is None:
            return
        from capsule_lightning.figures.perturbations import perturbation_figure, perturbed_pictures

        with torch.no_grad():
            poses = net(first.images).poses.float()
        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        when = f"{stage}, after {trainer.current_epoch + 1} epochs" if stage == "val" else stage
        for n, label in enumerate(first.labels.tolist()):
            moved = perturbed_pictures(net.decoder, poses[n, label], label, len(names))
            title = f"Class {names[label]}, each dimension moved alone ({when})"
            publish(trainer, f"{stage}/perturbations_{n + 1}", perturbation_figure(first.pictures[n], moved, title))

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the first images."""
        self._keep(trainer, batch)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the first images."""
        self._keep(trainer, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw them, in training only now and then."""
        epochs = trainer.current_epoch + 1
        if trainer.state.fn != TrainerFn.FITTING or epochs.bit_count() == 1 or epochs == trainer.max_epochs:
            self._publish(trainer, pl_module, "val")
        else:
            self._first = None

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw them."""
        self._publish(trainer, pl_module, "test")
