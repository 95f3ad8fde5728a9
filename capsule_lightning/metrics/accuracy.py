"""The accuracy alone."""

from __future__ import annotations

from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from capsule_lightning.metrics.base import Metrics


class Accuracy(Metrics):
    """The share of examples whose class is named, in [0, 1]."""

    @override
    def make(self) -> dict[str, Metric]:
        return {"accuracy": MulticlassAccuracy(self.num_classes, average="micro")}
