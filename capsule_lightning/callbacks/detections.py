"""Pictures of what a detector finds: the first images, and those that it gets most wrong."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torchvision.ops import box_iou
from typing_extensions import override

from capsule_lightning.callbacks.collected import offers
from capsule_lightning.callbacks.figures import PredictedFigures, publish
from capsule_lightning.errors import require

OVERLAP = 0.5
"""Intersection over union from which a box is the one of an object."""


class Seen(NamedTuple):
    """What is kept of an image.

    Attributes:
        picture: ``(C, H, W)`` in [0, 1].
        truth: ``(N, 4)`` edges and ``(N)`` labels of its objects; None if they are not known.
        found: ``(K, 4)`` edges, ``(K)`` scores and ``(K)`` labels of the boxes above the threshold.
        missed: ``(N)`` bool, objects without a box.
        wrong: ``(K)`` bool, boxes without an object.
    """

    picture: Tensor
    truth: tuple[Tensor, Tensor] | None
    found: tuple[Tensor, Tensor, Tensor]
    missed: Tensor
    wrong: Tensor

    @property
    def mistakes(self) -> int:
        """Objects that were missed, and boxes that are wrong."""
        return int(self.missed.sum() + self.wrong.sum())


class DetectionFigures(PredictedFigures):
    """Draw images with the boxes of their objects and those that were found, in training and afterwards.

    See `SparseFigures` for when. One figure has the first images, another one those with the most mistakes: objects
    that were missed, and boxes that are of no object or of another class. Predictions without boxes are left out.

    Args:
        count: images in each of the two figures.
        threshold: least score of a box that is drawn, in [0, 1].

    Raises:
        InputError: a value is out of range.
    """

    def __init__(self, count: int = 12, threshold: float = 0.3) -> None:
        require(count >= 1, f"DetectionFigures: count={count}: expected at least 1")
        require(0 <= threshold <= 1, f"DetectionFigures: threshold={threshold}: expected a score from 0 to 1")
        self.count, self.threshold = count, threshold
        self._first: list[Seen] = []
        self._worst: list[Seen] = []

    @override
    def keep(self, trainer: L.Trainer, outputs: Any, batch: Any) -> None:
        if not offers(outputs, "boxes", "scores", "labels") or not offers(batch, "boxes", "labels", "pictures"):
            return
        rows = [seen(outputs, batch, n, self.threshold) for n in range(len(batch.labels))]
        self._first += rows[: max(self.count - len(self._first), 0)]
        worst = [row for row in rows if row.truth is not None and row.mistakes]
        self._worst = sorted([*self._worst, *worst], key=lambda row: -row.mistakes)[: self.count]

    @override
    def draw_kept(self, trainer: L.Trainer, task: L.LightningModule, stage: str, when: str) -> None:
        from capsule_lightning.figures.boxes import boxes_figure

        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        for rows, name, title in (
            (self._first, "boxes", "Objects and what was found"),
            (self._worst, "worst", "Most mistakes (red: missed or wrong)"),
        ):
            if rows:
                drawn = [image_row(row, names) for row in rows]
                publish(trainer, f"{stage}/{name}", partial(boxes_figure, drawn, f"{title} ({when})"))

    @override
    def forget(self) -> None:
        self._first, self._worst = [], []


def seen(outputs: Any, batch: Any, n: int, threshold: float) -> Seen:
    """Return what is kept of image ``n`` of a batch, on the CPU."""
    boxes, scores, labels = (part[n].detach().float().cpu() for part in (outputs.boxes, outputs.scores, outputs.labels))
    above = scores >= max(threshold, 1e-9)
    boxes, scores, labels = boxes[above], scores[above], labels[above].long()
    true, classes, crowd = (part[n].cpu() for part in (batch.boxes, batch.labels, batch.crowd))
    there = (classes >= 0) & ~crowd
    known = bool((batch.labels >= 0).any())  # of pictures of one's own nothing is
    right, met = matched(boxes, labels, true[there], classes[there])
    in_crowd = within(boxes, true[(classes >= 0) & crowd])
    truth = (true[there], classes[there]) if known else None
    return Seen(batch.pictures[n].cpu(), truth, (boxes, scores, labels), ~met, ~right & ~in_crowd & known)


def matched(boxes: Tensor, labels: Tensor, true: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Give each box, best first, the object of its class that it overlaps most and that no box has yet.

    Args:
        boxes: ``(K, 4)``, best first.
        labels: ``(K)`` int64.
        true: ``(N, 4)``.
        classes: ``(N)`` int64.

    Returns:
        ``(K)`` bool, which boxes have an object; ``(N)`` bool, which objects have a box.
    """
    overlaps = box_iou(boxes, true) * (labels.unsqueeze(1) == classes)
    right, met = torch.zeros(len(boxes), dtype=torch.bool), torch.zeros(len(true), dtype=torch.bool)
    for k in range(len(boxes)):
        free = overlaps[k] * ~met
        if len(free) and free.max() >= OVERLAP:
            right[k] = met[free.argmax()] = True
    return right, met


def within(boxes: Tensor, crowds: Tensor) -> Tensor:
    """Return which boxes ``(K, 4)`` lie for the most part in one of some crowds ``(N, 4)``."""
    if not len(crowds):
        return torch.zeros(len(boxes), dtype=torch.bool)
    start, end = torch.maximum(boxes[:, None, :2], crowds[:, :2]), torch.minimum(boxes[:, None, 2:], crowds[:, 2:])
    shared = (end - start).clamp_min(0).prod(dim=-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1).clamp_min(1e-9)
    return (shared / area.unsqueeze(1)).amax(dim=1) >= OVERLAP


def image_row(row: Seen, names: Sequence[str]) -> Any:
    """Return an image as the figure takes it."""
    from capsule_lightning.figures.boxes import DrawnBoxes, ImageRow

    boxes, scores, labels = row.found
    words = [f"{names[label]} {score:.2f}" for label, score in zip(labels.tolist(), scores.tolist(), strict=True)]
    found = DrawnBoxes(boxes, words, (~row.wrong).tolist())
    if row.truth is None:
        return ImageRow(row.picture, None, found, f"{len(words)} found")
    true, classes = row.truth
    truth = DrawnBoxes(true, [names[label] for label in classes.tolist()], (~row.missed).tolist())
    return ImageRow(row.picture, truth, found, f"{int(row.missed.sum())} missed, {int(row.wrong.sum())} wrong")
