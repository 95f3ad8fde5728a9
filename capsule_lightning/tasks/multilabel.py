"""Images of several classes each: margin loss, and a reconstruction of each object alone.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassExactMatch

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


class MultiLabelPrediction(NamedTuple):
    """What evaluation and prediction say of a batch.

    Attributes:
        classes: ``(B, L)`` int64, the classes of the L longest capsules, each right one at the place of its label; see
            `matched`.
        activations: ``(B, J)`` in [0, 1].
        reconstructions: ``(B, L, C, H, W)`` in [0, 1], each from the capsule of one of ``classes``; None without a
            decoder.
        errors: ``(B)``, squared reconstruction error summed over pixels and objects; None without a decoder.
    """

    classes: Tensor
    activations: Tensor
    reconstructions: Tensor | None
    errors: Tensor | None


class MultiLabelTask(Task):
    """Name the classes of all objects in an image, and reconstruct each alone.

    The decoder runs once for each object: it sees the capsule of a true label in training, and that of a predicted
    class otherwise, whose picture is compared with that of the label it is matched with. The accuracy counts an image
    where all its classes are right (Sabour et al. 2017); ``digit_accuracy`` gives a share of the credit for each class
    that is (Mazzia et al. 2021).

    Args:
        in_shape, num_classes: see `Task`; stated by the data.
        net: called with ``(in_shape, num_classes)``.
        loss: of the class capsules, given multi-hot targets ``(B, J)``.
        num_labels: objects in an image, L, of different classes.
        reconstruction_weight: of the squared error summed over pixels and objects; 0.0005 in the paper.
        optimizer, lr_scheduler: see `Task`; Adam with the paper's decay for single digits.
        skip_not_finite: see `Task`; 0 stops at the first step that is not finite.

    Raises:
        InputError: a negative ``reconstruction_weight`` or ``skip_not_finite``; ``num_labels`` out of range.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        net: Callable[[tuple[int, ...], int], CapsuleNet] = CapsNet,
        loss: Callable[[], ClassificationLoss] = MarginLoss,
        num_labels: int = 2,
        reconstruction_weight: float = 0.0005,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: ScheduleCallable | None = ExponentialDecay,
        skip_not_finite: int = 0,
    ) -> None:
        super().__init__(in_shape, num_classes, optimizer, lr_scheduler, skip_not_finite)
        if not reconstruction_weight >= 0:
            raise InputError(f"reconstruction_weight={reconstruction_weight}: expected 0 or more")
        if not 2 <= num_labels < num_classes:
            raise InputError(f"num_labels={num_labels}: expected at least 2 and fewer than the {num_classes} classes")
        self.save_hyperparameters(logger=False)
        self.net = net(self.in_shape, num_classes)
        self.loss = loss()
        self.num_labels, self.reconstruction_weight = num_labels, reconstruction_weight
        parts = loss_names(self.net.decoder is not None)
        self.val_metrics, self.test_metrics = (
            StageMetrics(
                {
                    "accuracy": MulticlassExactMatch(num_classes),
                    "digit_accuracy": MulticlassAccuracy(num_classes, average="micro"),
                },
                parts,
            )
            for _ in range(2)
        )

    def forward(self, images: Tensor) -> Capsules:
        """Class capsules of images ``(B, C, H, W)``."""
        capsules: Capsules = self.net(images)
        return capsules

    def example_batch(self, size: int) -> ImageBatch:
        """See `Task.example_batch`; each image has L labels and pictures."""
        single = super().example_batch(size)
        pictures = torch.rand(size, self.num_labels, *self.in_shape, device=self.device)
        labels = torch.arange(self.num_labels, device=self.device).expand(size, -1)
        return single._replace(pictures=pictures, labels=labels)

    def training_losses(self, batch: ImageBatch) -> tuple[Capsules, dict[str, Tensor]]:
        """See `Task.training_losses`; the decoder sees the capsules of the labels."""
        capsules = self(batch.images)
        return capsules, self.losses(capsules, batch, self.reconstruct(capsules, batch.labels))

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """The loss of a batch; its parts and the accuracies are logged."""
        capsules, parts = self.training_losses(batch)
        right = self.classify(capsules, batch.labels) == batch.labels
        accuracies = {"accuracy": right.all(dim=-1).float().mean(), "digit_accuracy": right.float().mean()}
        return self.log_training(accuracies, parts)

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> MultiLabelPrediction:  # type: ignore[override]
        """Metrics of a validation batch."""
        return self.evaluate(batch, "val")

    def test_step(self, batch: ImageBatch, batch_idx: int) -> MultiLabelPrediction:  # type: ignore[override]
        """Metrics of a test batch."""
        return self.evaluate(batch, "test")

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> MultiLabelPrediction:
        """What the network says of a batch."""
        return self.predict(batch)[0]

    def classify(self, capsules: Capsules, labels: Tensor) -> Tensor:
        """Classes ``(B, L)`` of the longest capsules, matched with ``labels (B, L)``."""
        return matched(capsules.activations.topk(self.num_labels).indices, labels)

    def reconstruct(self, capsules: Capsules, classes: Tensor) -> Tensor | None:
        """Pictures ``(B, L, C, H, W)``, each from the capsule of one of ``classes (B, L)``; None without a decoder."""
        each = Capsules(*(part.repeat_interleave(self.num_labels, dim=0) for part in capsules))
        pictures = self.net.reconstruct(each, classes.flatten())
        return None if pictures is None else pictures.reshape(-1, self.num_labels, *self.in_shape)

    def predict(self, batch: ImageBatch) -> tuple[MultiLabelPrediction, Capsules]:
        """The longest capsules, and what is reconstructed from each."""
        capsules = self(batch.images)
        classes = self.classify(capsules, batch.labels)
        pictures = self.reconstruct(capsules, classes)
        errors = None if pictures is None else reconstruction_error(pictures, batch.pictures)
        return MultiLabelPrediction(classes, capsules.activations, pictures, errors), capsules

    def losses(self, capsules: Capsules, batch: ImageBatch, reconstructions: Tensor | None) -> dict[str, Tensor]:
        """The loss and its parts, each a mean over the batch."""
        loss = self.loss(capsules, present_classes(batch.labels, self.num_classes))
        errors = None if reconstructions is None else reconstruction_error(reconstructions, batch.pictures)
        return with_reconstruction(loss, errors, self.reconstruction_weight)

    def evaluate(self, batch: ImageBatch, stage: Literal["val", "test"]) -> MultiLabelPrediction:
        """Predict a batch and update the metrics of a stage."""
        prediction, capsules = self.predict(batch)
        metrics = self.val_metrics if stage == "val" else self.test_metrics
        metrics.update(prediction.classes, batch.labels, self.losses(capsules, batch, prediction.reconstructions))
        self.log_metrics(stage, metrics)
        return prediction


def present_classes(labels: Tensor, num_classes: int) -> Tensor:
    """``(B, J)`` int64, 1 at each of ``labels (B, L)`` and 0 elsewhere.

    Example:
        >>> present_classes(torch.tensor([[2, 0]]), 4)
        tensor([[1, 0, 1, 0]])
    """
    return labels.new_zeros(len(labels), num_classes).scatter(1, labels, 1)


def matched(classes: Tensor, labels: Tensor) -> Tensor:
    """Put predicted classes in the order of the labels.

    Each class that is one of the labels goes to the place of that label; the others fill the places that are left, in
    the order they came in.

    Args:
        classes: ``(B, L)`` int64, different in a row.
        labels: ``(B, L)`` int64, different in a row.

    Returns:
        ``(B, L)``, the classes of each row in another order.

    Example:
        >>> matched(torch.tensor([[5, 3, 7]]), torch.tensor([[3, 4, 6]]))
        tensor([[3, 5, 7]])
    """
    same = classes.unsqueeze(2) == labels.unsqueeze(1)  # (B, predicted, true)
    right = same.any(dim=2)
    left = same.any(dim=1).long().argsort(dim=1, stable=True)  # places whose label was not predicted come first
    turn = ((~right).cumsum(dim=1) - 1).clamp_min(0)  # of each wrong class among the wrong ones
    places = torch.where(right, same.long().argmax(dim=2), left.gather(1, turn))
    return torch.empty_like(classes).scatter(1, places, classes)
