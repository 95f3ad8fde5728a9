"""Pictures of the two digits that the network takes an image apart into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.callbacks.figures import ImageFigures
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.tasks.multilabel import MultiLabelPrediction


class PairRow(NamedTuple):
    """What is drawn of one image.

    Attributes:
        image: ``(C, H, W)``.
        pictures: ``(2, C, H, W)``, each digit alone.
        reconstructions: ``(2, C, H, W)``.
        labels: of the two.
        classes: predicted for the two.
        confidences: lengths of the capsules of ``classes``.
    """

    image: Tensor
    pictures: Tensor
    reconstructions: Tensor
    labels: list[int]
    classes: list[int]
    confidences: list[float]


class TwoDigitFigures(ImageFigures[PairRow]):
    """Images of two digits and the two reconstructions in two colors; see `ImageFigures`.

    Steps aside for tasks of one label, or of more than two.
    """

    def __init__(self, count: int = 10) -> None:
        super().__init__(count)

    def wrong(self, outputs: Any, batch: ImageBatch) -> Tensor | None:
        """See `ImageFigures.wrong`; right where both digits are."""
        if not isinstance(outputs, MultiLabelPrediction) or outputs.reconstructions is None:
            return None
        return (outputs.classes != batch.labels).any(dim=1) if batch.labels.shape[1] == 2 else None

    def row(self, outputs: Any, batch: ImageBatch, n: int) -> PairRow:
        """See `ImageFigures.row`."""
        classes = outputs.classes[n]
        return PairRow(
            batch.images[n].cpu(),
            batch.pictures[n].cpu(),
            outputs.reconstructions[n].float().cpu(),
            batch.labels[n].tolist(),
            classes.tolist(),
            outputs.activations[n, classes].tolist(),
        )

    def draw(self, rows: Sequence[PairRow], names: Sequence[str], title: str) -> Figure:
        """See `ImageFigures.draw`."""
        from capsule_lightning.figures.two_digits import two_digit_figure

        images, pictures, reconstructions, labels, classes, confidences = zip(*rows, strict=True)
        return two_digit_figure(
            torch.stack(images),
            torch.stack(pictures),
            torch.stack(reconstructions),
            [[names[c] for c in pair] for pair in labels],
            [[names[c] for c in pair] for pair in classes],
            confidences,
            title,
        )
