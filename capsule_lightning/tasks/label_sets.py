"""Images of any number of classes each, none included: the margin loss of each class by itself.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), section 3: the loss of each
class capsule is separate "to allow for multiple digits".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.data.label_sets import present
from capsule_lightning.data.targets import HasLabels
from capsule_lightning.errors import require
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.losses.naming import PresentClasses
from capsule_lightning.metrics.label_sets import ExactMatch, LabelAUROC, LabelF1, LabelPrecision, LabelRecall
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.schedules import ExponentialDecay
from capsule_lightning.tasks.base import ScheduleCallable, Stage
from capsule_lightning.tasks.image_classification import ImageClassificationTask, Output, Prediction


class LabelSetTask(ImageClassificationTask):
    """Say of every class whether an image has it, and reconstruct the image from the capsules of those that it has.

    A class is predicted if its capsule is as long as the ``threshold``. The decoder sees the capsules of all true
    classes in training, those of all predicted ones otherwise. The accuracy counts an image if all its classes are
    named and no other. Besides, validation and test have ``micro_precision``, ``micro_recall`` and ``micro_f1`` of all
    classes together, ``macro_f1``, the mean of the F1 score over classes, and ``auroc``, the mean over classes of the
    area under the ROC curve; a test has F1 and AUROC of each class as well.

    Args:
        in_shape, num_classes: see `ImageClassificationTask`; stated by the data.
        net: called with ``(in_shape, num_classes)``; its decoder, if any, takes masked capsules.
        loss: of the class capsules, given multi-hot targets ``(B, J)``: `MarginLoss` or, for one logit a class,
            `BinaryCrossEntropyLoss`, whose sigmoids then count as the lengths.
        threshold: length from which on a class is predicted, in (0, 1); the middle of the paper's two margins.
        reconstruction_weight: weight of the squared error summed over pixels; 0.0005 in the paper.
        optimizer, lr_scheduler: see `Task`; Adam with the paper's decay.
        skip_not_finite: see `Task`; 0 stops at the first step that is not finite.

    Raises:
        InputError: a negative ``reconstruction_weight`` or ``skip_not_finite``; a ``threshold`` out of range; a loss or
            a network for one class an image, or weights of classes; a decoder that takes the capsule of one class
            alone.
    """

    num_labels = 0
    training_names = ("accuracy", "micro_f1")

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        net: Callable[[tuple[int, ...], int], CapsuleNet] = CapsNet,
        loss: Callable[[], ClassificationLoss] = MarginLoss,
        threshold: float = 0.5,
        reconstruction_weight: float = 0.0005,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: ScheduleCallable | None = ExponentialDecay,
        skip_not_finite: int = 0,
    ) -> None:
        super().__init__(
            in_shape, num_classes, net, loss, reconstruction_weight, optimizer, lr_scheduler, skip_not_finite
        )
        require(0 < threshold < 1, f"threshold={threshold}: expected a number between 0 and 1")
        self.require_for_several()
        decoder = self.net.decoder
        require(
            getattr(decoder, "masked", True),
            f"{type(decoder).__name__}: takes the capsule of one class, and these images have any number; choose "
            "DenseDecoder or ConvDecoder, or --model.net.decoder null",
        )
        self.save_hyperparameters(logger=False)
        self.threshold = threshold
        self.net.naming = self.naming = PresentClasses(self.loss, threshold)
        self.by_class = torch.nn.ModuleDict(
            {"f1": LabelF1(num_classes, "none", threshold), "auroc": LabelAUROC(num_classes, each=True)}
        )

    @override
    def classify(self, capsules: Capsules, labels: Tensor) -> Tensor:
        """Return the predicted classes ``(B, J)``, in ascending order, and -1 in the places that are left."""
        return self.naming(capsules)[0]

    @override
    def reconstruct(self, capsules: Capsules, classes: Tensor) -> Tensor | None:
        return self.net.reconstruct(capsules, classes)

    @override
    def require_usable(self, capsules: Capsules, labels: Tensor) -> None:
        super().require_usable(capsules, labels)
        sums, net = self.loss.presence(capsules).sum(dim=-1), type(self.net).__name__
        remedy = "another network or routing, such as DynamicRouting"
        if capsules.poses.shape[-1] == 1:  # logits
            remedy = "--model.loss BinaryCrossEntropyLoss"
        require(
            not torch.allclose(sums, torch.ones_like(sums), atol=1e-4),
            f"{net}: its activations sum to 1 over the classes, so that they cannot name any number of them; choose "
            f"{remedy}",
        )

    @override
    def targets(self, labels: Tensor) -> Tensor:
        return present(labels, self.num_classes)

    @override
    def metrics(self, stage: Stage) -> dict[str, Metric]:
        return {
            "accuracy": ExactMatch(self.threshold),
            "micro_precision": LabelPrecision(self.threshold),
            "micro_recall": LabelRecall(self.threshold),
            "micro_f1": LabelF1(self.num_classes, "micro", self.threshold),
            "macro_f1": LabelF1(self.num_classes, "macro", self.threshold),
            "auroc": LabelAUROC(self.num_classes),
        }

    @override
    def compared(self, output: Output, batch: HasLabels) -> tuple[Tensor, Tensor]:
        return self.loss.presence(output.capsules).float(), self.targets(batch.labels)

    @override
    def prediction(self, output: Output, batch: HasLabels) -> Prediction:
        """Return what files and callbacks see, among it how sure the network is of each class as its activation."""
        return super().prediction(output, batch)._replace(activations=self.loss.presence(output.capsules))

    @override
    def training_metrics(self, output: Output, batch: HasLabels) -> dict[str, Tensor]:
        named, there = (present(each, self.num_classes) for each in (output.classes, batch.labels))
        both, one = (named * there).sum(), (named != there).sum()
        return {
            "accuracy": (named == there).all(dim=-1).float().mean(),
            "micro_f1": 2 * both / (2 * both + one).clamp_min(1),
        }

    @override
    def test_step(self, batch: HasLabels, batch_idx: int) -> Prediction:  # type: ignore[override]
        prediction: Prediction = super().test_step(batch, batch_idx)
        for metric in self.by_class.values():
            metric.update(prediction.activations.float(), self.targets(batch.labels))  # type: ignore[operator]
        return prediction

    @override
    def on_test_epoch_start(self) -> None:
        for metric in self.by_class.values():
            metric.reset()  # type: ignore[operator]

    @override
    def on_test_epoch_end(self) -> None:
        """Log F1 and AUROC of each class; of a class that no image has, or every one, the latter cannot be told."""
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", range(self.num_classes))
        for measure, metric in self.by_class.items():
            for name, value in zip(names, metric.compute(), strict=True):  # type: ignore[operator]
                if not value.isnan():
                    self.log(f"test/{measure}/{name}", value, sync_dist=True)  # equal on all processes

    @override
    def example_batch(self, size: int) -> ImageBatch:
        """Return random images, each with the first class."""
        single = super().example_batch(size)
        return single._replace(labels=single.labels.unsqueeze(1))
