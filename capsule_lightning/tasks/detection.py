"""Find objects: heat maps of their centers, and size and offset at each.

Zhou, Wang & Kraehenbuehl, Objects as Points, 2019 (arXiv 1904.07850), section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from capsule_lightning.data.targets import BoxBatch, HasBoxes
from capsule_lightning.errors import require
from capsule_lightning.layers.centers import Boxes, at_cells, center_targets
from capsule_lightning.losses.detection import FocalLoss, HeatMapLoss, center_l1
from capsule_lightning.metrics.boxes import BoxPrecision
from capsule_lightning.models.center_capsnet import CenterCapsNet
from capsule_lightning.models.detector import STRIDE, CenterMaps, Detector
from capsule_lightning.schedules import ExponentialDecay
from capsule_lightning.tasks.annotated import AnnotatedTask
from capsule_lightning.tasks.base import ScheduleCallable, Stage

Images = list[dict[str, Tensor]]
"""Boxes of each image as torchmetrics takes them."""


class BoxPrediction(NamedTuple):
    """What evaluation and prediction report about a batch.

    Attributes:
        boxes: ``(B, K, 4)``, left, top, right and bottom edge in pixels of the images, best first.
        scores: ``(B, K)`` in [0, 1], lengths of presence capsules; 0 if there is no Kth box.
        labels: ``(B, K)`` int64.
        presence: ``(B, J, rows, columns)`` in [0, 1], the heat maps.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    presence: Tensor


class DetectionTask(AnnotatedTask):
    """Detect objects by their centers; a batch is anything that has boxes, see `HasBoxes`.

    Metrics are COCO's average precision, ``map_50`` at an overlap of 0.5 and ``map``, the mean from 0.5 to 0.95.

    Args:
        in_shape: ``(C, H, W)`` of one image; stated by the data.
        num_classes: number of classes, J; stated by the data.
        net: called with ``(in_shape, num_classes)``.
        loss: of the heat maps.
        size_weight: weight of the mean absolute error of width and height in cells; 0.1 in the paper.
        offset_weight: weight of that of the center's offset in its cell; 1 in the paper.
        max_boxes: most boxes of an image, 100 in the paper and in COCO's metrics.
        optimizer, lr_scheduler, skip_not_finite: see `Task`.

    Raises:
        InputError: negative weights, ``max_boxes`` out of range, or no package that computes average precision.
    """

    results: ClassVar[Mapping[str, Sequence[str]]] = {"output": (".json",)}
    loss_names = ("loss", "heat_loss", "size_loss", "offset_loss")
    selected_by = ("map_50", "max")

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        net: Callable[[tuple[int, ...], int], Detector] = CenterCapsNet,
        loss: Callable[[], HeatMapLoss] = FocalLoss,
        size_weight: float = 0.1,
        offset_weight: float = 1.0,
        max_boxes: int = 100,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: ScheduleCallable | None = ExponentialDecay,
        skip_not_finite: int = 0,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, skip_not_finite)
        self.save_hyperparameters(logger=False)
        require(
            min(size_weight, offset_weight) >= 0,
            f"size_weight={size_weight}, offset_weight={offset_weight}: expected 0 or more",
        )
        require(1 <= max_boxes <= 100, f"max_boxes={max_boxes}: expected 1 to 100, the most that COCO's metrics count")
        BoxPrecision()  # before any data are read
        self.in_shape, self.num_classes = tuple(in_shape), num_classes
        self.net = net(self.in_shape, num_classes)
        self.loss = loss()
        self.size_weight, self.offset_weight, self.max_boxes = size_weight, offset_weight, max_boxes

    @override
    def forward(self, images: Tensor) -> CenterMaps:
        """Return the maps of images ``(B, C, H, W)``."""
        maps: CenterMaps = self.net(images)
        return maps

    @override
    def output(self, batch: HasBoxes) -> CenterMaps:
        maps: CenterMaps = self(batch.images)
        return maps

    @override
    def losses(self, output: CenterMaps, batch: HasBoxes) -> dict[str, Tensor]:
        size = output.presence.shape[-2], output.presence.shape[-1]
        target = center_targets(batch.boxes, batch.labels, batch.crowd, self.num_classes, size, STRIDE)
        heat = self.loss(output.presence, target.heat, target.counts)
        sizes = center_l1(at_cells(output.sizes, target.cells), target.sizes, target.present)
        offsets = center_l1(at_cells(output.offsets, target.cells), target.offsets, target.present)
        total = heat + self.size_weight * sizes + self.offset_weight * offsets
        return {"loss": total, "heat_loss": heat, "size_loss": sizes, "offset_loss": offsets}

    @override
    def prediction(self, output: CenterMaps, batch: Any) -> BoxPrediction:
        found = self.boxes(output)
        return BoxPrediction(*found, output.presence)

    def boxes(self, output: CenterMaps) -> Boxes:
        """Return the boxes that maps say, within the image."""
        return self.net.boxes(output, self.max_boxes)

    @override
    def metrics(self, stage: Stage) -> dict[str, Metric]:
        return {key: BoxPrecision(key) for key in ("map_50", "map")}

    @override
    def compared(self, output: CenterMaps, batch: HasBoxes) -> tuple[Images, Images]:  # type: ignore[override]
        found = self.boxes(output)
        return images_of(found), truth_of(batch)

    @override
    def example_batch(self, size: int) -> BoxBatch:
        images = torch.rand(size, *self.in_shape, device=self.device)
        rows, columns = self.in_shape[1:]
        boxes = images.new_tensor([[columns / 4, rows / 4, columns / 2, rows / 2]]).expand(size, 1, 4)
        labels = torch.zeros(size, 1, dtype=torch.int64, device=self.device)
        return BoxBatch(images, images, boxes, labels, labels > 0, labels[:, 0])


def images_of(found: Boxes) -> Images:
    """Return the boxes of each image as torchmetrics takes them, without what is no box."""
    return [
        {"boxes": boxes[scores > 0], "scores": scores[scores > 0], "labels": labels[scores > 0]}
        for boxes, scores, labels in zip(*found, strict=True)
    ]


def truth_of(batch: HasBoxes) -> Images:
    """Return the true boxes of each image as torchmetrics takes them."""
    here = batch.labels >= 0
    return [
        {"boxes": batch.boxes[n][there], "labels": batch.labels[n][there], "iscrowd": batch.crowd[n][there].long()}
        for n, there in enumerate(here.unbind())
    ]
