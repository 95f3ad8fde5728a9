"""Pictures of what the network reconstructs, during training and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.callbacks.figures import ImageFigures
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.tasks.classification import Prediction

Row = tuple[Tensor, Tensor, int, int, float]


class ReconstructionFigures(ImageFigures[Row]):
    """Images of one class each and their reconstructions; see `ImageFigures`. Steps aside for other tasks."""

    def __init__(self, count: int = 20) -> None:
        super().__init__(count)

    def wrong(self, outputs: Any, batch: ImageBatch) -> Tensor | None:
        """See `ImageFigures.wrong`."""
        if not isinstance(outputs, Prediction) or outputs.reconstructions is None:
            return None
        return (outputs.classes != batch.labels) & (batch.labels >= 0)

    def row(self, outputs: Any, batch: ImageBatch, n: int) -> Row:
        """See `ImageFigures.row`."""
        picture, reconstruction = batch.pictures[n].cpu(), outputs.reconstructions[n].float().cpu()
        confidence = float(outputs.activations[n].amax())
        return picture, reconstruction, int(batch.labels[n]), int(outputs.classes[n]), confidence

    def draw(self, rows: Sequence[Row], names: Sequence[str], title: str) -> Figure:
        """See `ImageFigures.draw`."""
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
