"""Pictures of what the network reconstructs, during training and afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from typing_extensions import override

from capsule_lightning.callbacks.collected import offers, offers_pictures
from capsule_lightning.callbacks.figures import ImageFigures
from capsule_lightning.data.base import ImageBatch

Reconstruction = tuple[Tensor, Tensor, int, int, float]


class ReconstructionFigures(ImageFigures[Reconstruction]):
    """Draws images of one class each and their reconstructions; see `ImageFigures`.

    Predictions of several classes an image, those without reconstructions, and those of vectors are left out.
    """

    def __init__(self, count: int = 20) -> None:
        super().__init__(count)

    @override
    def wrong(self, outputs: Any, batch: ImageBatch) -> Tensor | None:
        if not offers(outputs, "classes", "activations", "reconstructions") or not offers(batch, "labels", "pictures"):
            return None
        if outputs.classes.ndim != 1 or not offers_pictures(batch):
            return None
        wrong: Tensor = outputs.classes != batch.labels
        return wrong & (batch.labels >= 0)

    @override
    def row(self, outputs: Any, batch: ImageBatch, n: int) -> Reconstruction:
        picture, reconstruction = batch.pictures[n].cpu(), outputs.reconstructions[n].float().cpu()
        confidence = float(outputs.activations[n].amax())
        return picture, reconstruction, int(batch.labels[n]), int(outputs.classes[n]), confidence

    @override
    def draw(self, rows: Sequence[Reconstruction], names: Sequence[str], title: str) -> Figure:
        from capsule_lightning.figures.reconstructions import reconstruction_figure

        pictures, reconstructions, labels, classes, confidences = zip(*rows, strict=True)
        return reconstruction_figure(
            torch.stack(pictures),
            torch.stack(reconstructions),
            [names[label] if label >= 0 else None for label in labels],
            [names[c] for c in classes],
            confidences,
            title,
        )
