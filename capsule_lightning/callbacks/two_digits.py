"""Pictures of the two digits into which the network takes an image apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from typing_extensions import override

from capsule_lightning.callbacks.collected import offers
from capsule_lightning.callbacks.figures import ImageFigures
from capsule_lightning.data.base import ImageBatch


class PairRow(NamedTuple):
    """What is drawn for one image.

    Attributes:
        image: ``(C, H, W)``.
        pictures: ``(2, C, H, W)``, each digit alone.
        reconstructions: ``(2, C, H, W)``.
        labels: the classes of the two digits.
        classes: the predicted classes.
        confidences: lengths of the capsules of ``classes``.
    """

    image: Tensor
    pictures: Tensor
    reconstructions: Tensor
    labels: list[int]
    classes: list[int]
    confidences: list[float]


class TwoDigitFigures(ImageFigures[PairRow]):
    """Draws images of two digits and the two reconstructions in two colors; see `ImageFigures`.

    Predictions of one class an image or of more than two, and those without reconstructions, are left out.
    """

    def __init__(self, count: int = 10) -> None:
        super().__init__(count)

    @override
    def wrong(self, outputs: Any, batch: ImageBatch) -> Tensor | None:
        """Return which images are predicted wrongly; one is right if both digits are."""
        if not offers(outputs, "classes", "activations", "reconstructions") or not offers(batch, "labels", "pictures"):
            return None
        if outputs.classes.ndim != 2 or outputs.classes.shape[1] != 2:
            return None
        wrong: Tensor = outputs.classes != batch.labels
        return wrong.any(dim=1)

    @override
    def row(self, outputs: Any, batch: ImageBatch, n: int) -> PairRow:
        classes = outputs.classes[n]
        return PairRow(
            batch.images[n].cpu(),
            batch.pictures[n].cpu(),
            outputs.reconstructions[n].float().cpu(),
            batch.labels[n].tolist(),
            classes.tolist(),
            outputs.activations[n, classes].tolist(),
        )

    @override
    def draw(self, rows: Sequence[PairRow], names: Sequence[str], title: str) -> Figure:
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
