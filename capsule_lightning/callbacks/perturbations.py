"""Pictures of what each dimension of a class capsule does, during training and afterwards."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.callbacks.collected import offers, offers_pictures
from capsule_lightning.callbacks.figures import SparseFigures, publish
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.errors import require
from capsule_lightning.models.base import CapsuleNet


class PerturbationFigures(SparseFigures):
    """Draws, after validation and test, the first images with each dimension of the true class's capsule moved.

    See `SparseFigures` for when this happens in training. Predictions without ``classes``, networks without a
    decoder and images of several labels are left out.

    Args:
        count: number of images; each has a figure of its own.

    Raises:
        InputError: a ``count`` below 1.
    """

    def __init__(self, count: int = 2) -> None:
        require(count >= 1, f"PerturbationFigures: count={count}: expected at least 1")
        self.count = count
        self._first: ImageBatch | None = None

    @override
    def keep(self, trainer: L.Trainer, outputs: Any, batch: ImageBatch) -> None:
        if (
            self._first is None
            and trainer.is_global_zero
            and offers(outputs, "classes")
            and offers(batch, "labels", "pictures")
            and offers_pictures(batch)
            and batch.labels.ndim == 1
            and bool((batch.labels >= 0).all())
        ):
            tensors: tuple[Tensor, ...] = batch[:4]
            self._first = ImageBatch(*(part[: self.count] for part in tensors))  # type: ignore[arg-type]

    @override
    def draw_kept(self, trainer: L.Trainer, task: L.LightningModule, stage: str, when: str) -> None:
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
            figure = partial(perturbation_figure, first.pictures[n], moved, title)
            publish(trainer, f"{stage}/perturbations_{n + 1}", figure)

    @override
    def forget(self) -> None:
        self._first = None
