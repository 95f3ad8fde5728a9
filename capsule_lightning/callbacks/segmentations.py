"""Pictures of what a segmentation network says: the first images, and those that it gets most wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
from typing_extensions import override

from capsule_lightning.callbacks.collected import offers
from capsule_lightning.callbacks.figures import PredictedFigures, publish
from capsule_lightning.errors import require
from capsule_lightning.figures.masks import MaskRow, masks_figure
from capsule_lightning.metrics.masks import image_dice


class SegmentationFigures(PredictedFigures):
    """Draw images with their masks and those that were found, in training and afterwards.

    See `SparseFigures` for when. One figure has the first images, another one those with the lowest Dice, the mean over
    the classes in an image. After post-processing, if the task has any. Predictions without masks are left out.

    Args:
        count: images in each of the two figures.

    Raises:
        InputError: a ``count`` below 1.
    """

    def __init__(self, count: int = 16) -> None:
        require(count >= 1, f"SegmentationFigures: count={count}: expected at least 1")
        self.count = count
        self._first: list[MaskRow] = []
        self._worst: list[tuple[float, MaskRow]] = []

    @override
    def keep(self, trainer: L.Trainer, outputs: Any, batch: Any) -> None:
        if not offers(outputs, "processed") or not offers(batch, "masks", "pictures"):
            return
        classes = len(trainer.datamodule.class_names) + 1  # type: ignore[attr-defined]
        scores = image_dice(outputs.processed, batch.masks, classes).nanmean(dim=1).tolist()
        limit = self._worst[-1][0] if len(self._worst) == self.count else 1.0
        for n, score in enumerate(scores):
            is_first, is_bad = len(self._first) < self.count, score < limit
            if not (is_first or is_bad):
                continue
            truth = batch.masks[n].cpu()
            known = bool((truth >= 0).any())
            caption = "" if score != score else f"Dice {score:.2f}"
            row = MaskRow(batch.pictures[n].cpu(), truth if known else None, outputs.processed[n].cpu(), caption)
            self._first += [row] if is_first else []
            self._worst += [(score, row)] if is_bad else []
        self._worst = sorted(self._worst, key=lambda each: each[0])[: self.count]

    @override
    def draw_kept(self, trainer: L.Trainer, task: L.LightningModule, stage: str, when: str) -> None:
        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        for rows, name, title in (
            (self._first, "masks", "Images, their masks and what was found"),
            ([row for _, row in self._worst], "worst_masks", "Lowest Dice"),
        ):
            if rows:
                publish(trainer, f"{stage}/{name}", partial(masks_figure, rows, names, f"{title} ({when})"))

    @override
    def forget(self) -> None:
        self._first, self._worst = [], []
