"""Pictures of what each dimension of a class capsule does, while it is learnt and after."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from capsule_lightning.callbacks.figures import DrawnNowAndThen, publish
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.errors import InputError
from capsule_lightning.models.base import CapsuleNet


class PerturbationFigures(DrawnNowAndThen):
    """After validation and test: the dimensions of the true class's capsule moved one by one, for the first images.

    When in training, see `DrawnNowAndThen`. Steps aside for networks without a decoder and for images of several
    labels.

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

    def keep(self, trainer: L.Trainer, outputs: Any, batch: ImageBatch) -> None:
        """See `DrawnNowAndThen.keep`."""
        if (
            self._first is None
            and trainer.is_global_zero
            and batch.labels.ndim == 1
            and bool((batch.labels >= 0).all())
        ):
            self._first = ImageBatch(*(part[: self.count] for part in batch))

    def draw_kept(self, trainer: L.Trainer, task: L.LightningModule, stage: str, when: str) -> None:
        """See `DrawnNowAndThen.draw_kept`."""
        first, net = self._first, getattr(task, "net", None)
        if first is None or not isinstance(net, CapsuleNet) or net.decoder is None:
            return
        from capsule_lightning.figures.perturbations import perturbation_figure, perturbed_pictures

        with torch.no_grad():
            poses = net(first.images).poses.float()
        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        for n, label in enumerate(first.labels.tolist()):
            moved = perturbed_pictures(net.decoder, poses[n, label], label, len(names))
            title = f"Class {names[label]}, each dimension moved alone ({when})"
            publish(trainer, f"{stage}/perturbations_{n + 1}", perturbation_figure(first.pictures[n], moved, title))

    def forget(self) -> None:
        """See `DrawnNowAndThen.forget`."""
        self._first = None
