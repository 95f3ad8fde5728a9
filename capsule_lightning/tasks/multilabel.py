"""Images of several classes each: margin loss, and a reconstruction of each object alone.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), section 6.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassExactMatch
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.errors import require
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.losses.naming import LongestCapsules
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.schedules import ExponentialDecay
from capsule_lightning.tasks.base import ScheduleCallable, Stage
from capsule_lightning.tasks.image_classification import ImageClassificationTask, Output


class MultiLabelTask(ImageClassificationTask):
    """Name the classes of all objects in an image, and reconstruct each alone.

    The decoder runs once for each object: in training it sees the capsule of a true label, otherwise that of a
    predicted class, whose picture is compared with that of the label it is matched with. The accuracy counts an image
    if all its classes are right (Sabour et al. 2017); ``digit_accuracy`` gives a share of the credit for each class
    that is (Mazzia et al. 2021).

    Args:
        in_shape, num_classes: see `ImageClassificationTask`; stated by the data.
        net: called with ``(in_shape, num_classes)``.
        loss: of the class capsules, given multi-hot targets ``(B, J)``.
        num_labels: objects in an image, L, of different classes.
        reconstruction_weight: weight of the squared error summed over pixels and objects; 0.0005 in the paper.
        optimizer, lr_scheduler: see `Task`; Adam with the paper's decay for single digits.
        skip_not_finite: see `Task`; 0 stops at the first step that is not finite.

    Raises:
        InputError: a negative ``reconstruction_weight`` or ``skip_not_finite``; ``num_labels`` out of range; a loss or
            a network for one class an image, or weights of classes.
    """

    training_names = ("accuracy", "digit_accuracy")

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
        super().__init__(
            in_shape, num_classes, net, loss, reconstruction_weight, optimizer, lr_scheduler, skip_not_finite
        )
        require(
            2 <= num_labels < num_classes,
            f"num_labels={num_labels}: expected at least 2 and fewer than the {num_classes} classes",
        )
        self.require_for_several()
        self.save_hyperparameters(logger=False)
        self.num_labels = num_labels
        self.net.naming = self.naming = LongestCapsules(num_labels)

    @override
    def classify(self, capsules: Capsules, labels: Tensor) -> Tensor:
        return matched(self.naming(capsules)[0], labels)

    @override
    def reconstruct(self, capsules: Capsules, classes: Tensor) -> Tensor | None:
        each = Capsules(*(part.repeat_interleave(self.num_labels, dim=0) for part in capsules))
        pictures = self.net.reconstruct(each, classes.flatten())
        return None if pictures is None else pictures.reshape(-1, self.num_labels, *self.in_shape)

    @override
    def targets(self, labels: Tensor) -> Tensor:
        return present_classes(labels, self.num_classes)

    @override
    def metrics(self, stage: Stage) -> dict[str, Metric]:
        return {
            "accuracy": MulticlassExactMatch(self.num_classes),
            "digit_accuracy": MulticlassAccuracy(self.num_classes, average="micro"),
        }

    @override
    def training_metrics(self, output: Output, batch: ImageBatch) -> dict[str, Tensor]:
        right = output.classes == batch.labels
        return {"accuracy": right.all(dim=-1).float().mean(), "digit_accuracy": right.float().mean()}

    @override
    def example_batch(self, size: int) -> ImageBatch:
        """Return random images, each with L labels and pictures."""
        single = super().example_batch(size)
        pictures = torch.rand(size, self.num_labels, *self.in_shape, device=self.device)
        labels = torch.arange(self.num_labels, device=self.device).expand(size, -1)
        return single._replace(pictures=pictures, labels=labels)


def present_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Return ``(B, J)`` int64, 1 at each of ``labels (B, L)`` and 0 elsewhere.

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
