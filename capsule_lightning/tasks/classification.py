"""Images of one class each: margin loss plus reconstruction.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), sections 3 and 4.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.errors import InputError
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.losses.reconstruction import reconstruction_error
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.schedules import ExponentialDecay
from capsule_lightning.tasks.base import ScheduleCallable, StageMetrics, Task, loss_names, with_reconstruction


class Prediction(NamedTuple):
    """What evaluation and prediction say of a batch.

    Attributes:
        classes: ``(B)`` int64, the class of the longest capsule.
        activations: ``(B, J)`` in [0, 1].
        reconstructions: ``(B, C, H, W)`` in [0, 1] from the capsule of ``classes``; None without a decoder.
        errors: ``(B)``, squared reconstruction error summed over pixels; None without a decoder.
    """

    classes: Tensor
    activations: Tensor
    reconstructions: Tensor | None
    errors: Tensor | None


class ClassificationTask(Task):
    """Classify and reconstruct.

    The decoder sees the capsule of the true label in training and the longest capsule otherwise.

    Args:
        in_shape, num_classes: see `Task`; stated by the data.
        net: called with ``(in_shape, num_classes)``.
        loss: of the class capsules.
        reconstruction_weight: of the squared error summed over pixels; 0.0005 in the paper.
        optimizer, lr_scheduler: see `Task`; Adam with the paper's decay.
        skip_not_finite: see `Task`; 0 stops at the first step that is not finite.

    Raises:
        InputError: a negative ``reconstruction_weight`` or ``skip_not_finite``.
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
    ) -> None:
        super().__init__(in_shape, num_classes, optimizer, lr_scheduler, skip_not_finite)
        if not reconstruction_weight >= 0:
            raise InputError(f"reconstruction_weight={reconstruction_weight}: expected 0 or more")
        self.save_hyperparameters(logger=False)
        self.net = net(self.in_shape, num_classes)
        self.loss = loss()
        self.reconstruction_weight = reconstruction_weight
        parts = loss_names(self.net.decoder is not None)
        self.val_metrics, self.test_metrics = (
            StageMetrics({"accuracy": MulticlassAccuracy(num_classes, average="micro")}, parts) for _ in range(2)
        )
        self.confusion = MulticlassConfusionMatrix(num_classes)

    def forward(self, images: Tensor) -> Capsules:
        """Class capsules of images ``(B, C, H, W)``."""
        capsules: Capsules = self.net(images)
        return capsules

    def training_losses(self, batch: ImageBatch) -> tuple[Capsules, dict[str, Tensor]]:
        """See `Task.training_losses`; the decoder sees the capsule of the label."""
        capsules = self(batch.images)
        reconstructions = self.net.reconstruct(capsules, batch.labels)
        return capsules, self.losses(capsules, batch.labels, reconstructions, batch.pictures)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """The loss of a batch; its parts and the accuracy are logged."""
        capsules, parts = self.training_losses(batch)
        correct = (capsules.activations.argmax(dim=-1) == batch.labels).float().mean()
        return self.log_training({"accuracy": correct}, parts)

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> Prediction:  # type: ignore[override]
        """Metrics of a validation batch."""
        return self.evaluate(batch, "val")

    def test_step(self, batch: ImageBatch, batch_idx: int) -> Prediction:  # type: ignore[override]
        """Metrics of a test batch."""
        prediction = self.evaluate(batch, "test")
        self.confusion.update(prediction.classes, batch.labels)
        return prediction

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> Prediction:
        """What the network says of a batch."""
        return self.predict(batch)[0]

    def predict(self, batch: ImageBatch) -> tuple[Prediction, Capsules]:
        """The longest capsule, and what is reconstructed from it."""
        capsules = self(batch.images)
        classes = capsules.activations.argmax(dim=-1)
        pictures = self.net.reconstruct(capsules, classes)
        errors = None if pictures is None else reconstruction_error(pictures, batch.pictures)
        return Prediction(classes, capsules.activations, pictures, errors), capsules

    def losses(
        self, capsules: Capsules, labels: Tensor, reconstructions: Tensor | None, pictures: Tensor
    ) -> dict[str, Tensor]:
        """The loss and its parts, each a mean over the batch."""
        errors = None if reconstructions is None else reconstruction_error(reconstructions, pictures)
        return with_reconstruction(self.loss(capsules, labels), errors, self.reconstruction_weight)

    def evaluate(self, batch: ImageBatch, stage: Literal["val", "test"]) -> Prediction:
        """Predict a batch and update the metrics of a stage."""
        prediction, capsules = self.predict(batch)
        metrics = self.val_metrics if stage == "val" else self.test_metrics
        parts = self.losses(capsules, batch.labels, prediction.reconstructions, batch.pictures)
        metrics.update(prediction.classes, batch.labels, parts)
        self.log_metrics(stage, metrics)
        return prediction

    def on_test_epoch_start(self) -> None:
        """Begin to count anew."""
        self.confusion.reset()

    def on_test_epoch_end(self) -> None:
        """The accuracy of each class, from the confusion matrix."""
        matrix = self.confusion.compute().float()
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", range(self.num_classes))
        for name, row, right in zip(names, matrix.sum(dim=1), matrix.diagonal(), strict=True):
            if row > 0:
                self.log(f"test/class_accuracy/{name}", right / row, sync_dist=True)  # equal on all processes
