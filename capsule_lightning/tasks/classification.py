"""Images of one class each: margin loss plus reconstruction.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), sections 3 and 4.1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.targets import HasLabels
from capsule_lightning.errors import InputError
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.metrics.accuracy import Accuracy
from capsule_lightning.metrics.base import Metrics
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.schedules import ExponentialDecay
from capsule_lightning.tasks.balanced import BalancesClasses
from capsule_lightning.tasks.base import ScheduleCallable, Stage
from capsule_lightning.tasks.image_classification import ImageClassificationTask, Output, Prediction


class ClassificationTask(BalancesClasses, ImageClassificationTask):
    """Classify and reconstruct.

    The decoder sees the capsule of the true label in training and the longest capsule otherwise.

    Args:
        in_shape, num_classes: see `ImageClassificationTask`; stated by the data.
        net: called with ``(in_shape, num_classes)``.
        loss: of the class capsules.
        reconstruction_weight: weight of the squared error summed over pixels; 0.0005 in the paper.
        optimizer, lr_scheduler: see `Task`; Adam with the paper's decay.
        skip_not_finite: see `Task`; 0 stops at the first step that is not finite.
        metrics: of validation and test images, called with ``num_classes``.

    Raises:
        InputError: a negative ``reconstruction_weight`` or ``skip_not_finite``; weights of other classes than these.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        net: Callable[[tuple[int, ...], int], CapsuleNet] = CapsNet,
        loss: Callable[[], ClassificationLoss] = MarginLoss,
        reconstruction_weight: float = 0.0005,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: ScheduleCallable | None = ExponentialDecay,
        skip_not_finite: int = 0,
        metrics: Callable[[int], Metrics] = Accuracy,
    ) -> None:
        super().__init__(
            in_shape, num_classes, net, loss, reconstruction_weight, optimizer, lr_scheduler, skip_not_finite
        )
        self.save_hyperparameters(logger=False)
        self.measured = metrics(num_classes)
        self.confusion = MulticlassConfusionMatrix(num_classes)

    @property
    @override
    def num_weights(self) -> int:
        return self.num_classes

    @override
    def counts_to_balance(self, data: DataModule | None) -> Tensor:
        if data is None:
            raise InputError(
                "class_weights=balanced: these data do not say how many examples a class has; give a weight for each "
                "class, or a DataModule"
            )
        return data.class_counts()

    @override
    def classify(self, capsules: Capsules, labels: Tensor) -> Tensor:
        return capsules.activations.argmax(dim=-1)

    @override
    def reconstruct(self, capsules: Capsules, classes: Tensor) -> Tensor | None:
        return self.net.reconstruct(capsules, classes)

    @override
    def targets(self, labels: Tensor) -> Tensor:
        return labels

    @override
    def metrics(self, stage: Stage) -> dict[str, Metric]:
        return self.measured.make()

    @override
    def compared(self, output: Output, batch: HasLabels) -> tuple[Tensor, Tensor]:
        return self.loss.probabilities(output.capsules.activations), batch.labels

    @override
    def training_metrics(self, output: Output, batch: HasLabels) -> dict[str, Tensor]:
        return {"accuracy": (output.classes == batch.labels).float().mean()}

    @override
    def test_step(self, batch: HasLabels, batch_idx: int) -> Prediction:  # type: ignore[override]
        prediction: Prediction = super().test_step(batch, batch_idx)
        self.confusion.update(prediction.classes, batch.labels)
        return prediction

    @override
    def on_test_epoch_start(self) -> None:
        self.confusion.reset()

    @override
    def on_test_epoch_end(self) -> None:
        """Log the accuracy of each class and what else is measured by class, from the confusion matrix."""
        counts = self.confusion.compute()
        matrix = counts.float()
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", range(self.num_classes))
        for name, row, right in zip(names, matrix.sum(dim=1), matrix.diagonal(), strict=True):
            if row > 0:
                self.log(f"test/class_accuracy/{name}", right / row, sync_dist=True)  # equal on all processes
        for measure, values in self.measured.by_class(counts.cpu().double()).items():
            for name, value in zip(names, values.float().to(self.device), strict=True):
                if not value.isnan():
                    self.log(f"test/{measure}/{name}", value, sync_dist=True)
