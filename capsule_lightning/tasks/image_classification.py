"""What the tasks that name the objects of an image, and reconstruct them, or name the classes of a text share.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), section 4.1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.targets import HasLabels
from capsule_lightning.errors import InputError, require
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.losses.reconstruction import reconstruction_error
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.words import WordNet
from capsule_lightning.tasks.base import ScheduleCallable
from capsule_lightning.tasks.images import ImageTask


class Output(NamedTuple):
    """What a network says about a batch of images.

    Attributes:
        capsules: the class capsules, ``poses (B, J, E), activations (B, J)``.
        classes: ``(B)`` or, of L labels an image, ``(B, L)`` int64: the predicted classes.
        reconstructions: ``(B, C, H, W)`` or ``(B, L, C, H, W)`` in [0, 1], each from one capsule: in training mode from
            that of the label, otherwise from that of the predicted class; None without a decoder.
        errors: ``(B)``, squared reconstruction errors summed over pixels and objects; None without a decoder.
    """

    capsules: Capsules
    classes: Tensor
    reconstructions: Tensor | None
    errors: Tensor | None


class Prediction(NamedTuple):
    """What evaluation and prediction report about a batch.

    Attributes:
        classes: ``(B)`` int64, the class of the longest capsule. Of L labels an image ``(B, L)``, the classes of the L
            longest, each right one at the place of its label.
        activations: ``(B, J)`` in [0, 1].
        reconstructions: ``(B, C, H, W)`` or ``(B, L, C, H, W)`` in [0, 1], from the capsules of ``classes``; None
            without a decoder.
        errors: ``(B)``, squared reconstruction errors summed over pixels and objects; None without a decoder.
        poses: ``(B, J, E)``, the class capsules.
    """

    classes: Tensor
    activations: Tensor
    reconstructions: Tensor | None
    errors: Tensor | None
    poses: Tensor | None = None


class ImageClassificationTask(ImageTask):
    """Class capsules, a loss on them, and a reconstruction from the capsule of each object.

    Texts have class capsules alone: their batches, see `TextBatch`, hold no pictures, and their networks no decoder.

    In training mode the decoder sees the capsules of the labels, otherwise those of the predicted classes.

    Args:
        in_shape: ``(C, H, W)`` of one image, or ``(V, L)`` of texts, see `TextNet`; stated by the data.
        num_classes: number of classes, J; stated by the data.
        net: called with ``(in_shape, num_classes)``.
        loss: of the class capsules.
        reconstruction_weight: weight of the squared error summed over pixels and objects.
        optimizer, lr_scheduler, skip_not_finite: see `Task`.

    Attributes:
        num_labels: labels of an image, L.

    Raises:
        InputError: a negative ``reconstruction_weight`` or ``skip_not_finite``; weights of other classes than these.
    """

    num_labels: int = 1
    selected_by = ("accuracy", "max")
    training_names: Sequence[str] = ("accuracy",)

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        net: Callable[[tuple[int, ...], int], CapsuleNet],
        loss: Callable[[], ClassificationLoss],
        reconstruction_weight: float,
        optimizer: OptimizerCallable,
        lr_scheduler: ScheduleCallable | None,
        skip_not_finite: int,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, skip_not_finite)
        require(reconstruction_weight >= 0, f"reconstruction_weight={reconstruction_weight}: expected 0 or more")
        self.in_shape, self.num_classes = tuple(in_shape), num_classes
        self.net = net(self.in_shape, num_classes)
        self.loss = loss()
        self.loss.require_classes(num_classes)
        self.reconstruction_weight = reconstruction_weight
        if self.net.decoder is not None:
            self.loss_names = ("loss", "class_loss", "reconstruction_loss")
        self._is_tried = False

    def require_for_several(self) -> None:
        """Refuse parts that are for images of one class each; called by tasks whose images may have several.

        Raises:
            InputError: such a loss or network, or weights of classes.
        """
        name, loss, net = (type(each).__name__ for each in (self, self.loss, self.net))
        require(
            not self.loss.of_one_class,
            f"{loss}: is for one class an image, and {name} is for several: choose --model.loss MarginLoss for "
            "capsules, or BinaryCrossEntropyLoss for networks with one logit for each class, such as BaselineCNN",
        )
        require(
            not self.net.ordinal,
            f"{net}: ordinal=true is for grades, of which an image has one, and {name} is for several classes: set "
            "--model.net.ordinal false",
        )
        require(
            self.loss.class_weights is None and not self.loss.balanced,
            "class_weights: a weight is of the one class of an image, and these may have several; set "
            "--model.loss.class_weights null",
        )

    @override
    def try_loss(self) -> None:
        if self._is_tried:  # once is enough
            return
        self._is_tried, training = True, self.training
        self.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                batch = self.example_batch(2)
                try:
                    capsules = self(batch[0])
                except Exception:  # such as a kernel for GPUs: the first batch will tell
                    return
                self.require_usable(capsules, batch.labels)
        finally:
            self.train(training)

    def require_usable(self, capsules: Capsules, labels: Tensor) -> None:
        """Refuse a loss that cannot take class capsules, given labels ``(B)`` or ``(B, L)``.

        Raises:
            InputError: it cannot.
        """
        self.loss(capsules, self.targets(labels))

    @abstractmethod
    def classify(self, capsules: Capsules, labels: Tensor) -> Tensor:
        """Return the predicted classes, of the shape of ``labels``, ``(B)`` or ``(B, L)``."""

    @abstractmethod
    def reconstruct(self, capsules: Capsules, classes: Tensor) -> Tensor | None:
        """Return a picture from the capsule of each of ``classes``, ``(B)`` or ``(B, L)``; None without a decoder."""

    @abstractmethod
    def targets(self, labels: Tensor) -> Tensor:
        """Return labels, ``(B)`` or ``(B, L)``, in a form that the loss takes."""

    @override
    def forward(self, images: Tensor) -> Capsules:
        """Return the class capsules of images ``(B, C, H, W)``, or of tokens ``(B, L)``."""
        capsules: Capsules = self.net(images)
        return capsules

    @override
    def output(self, batch: HasLabels) -> Output:
        capsules = self(batch[0])
        classes = self.classify(capsules, batch.labels)
        reconstructions = self.reconstruct(capsules, batch.labels if self.training else classes)
        if reconstructions is None:
            return Output(capsules, classes, None, None)
        pictures: Tensor = batch.pictures  # type: ignore[attr-defined]  # a network with a decoder takes images
        return Output(capsules, classes, reconstructions, reconstruction_error(reconstructions, pictures))

    @override
    def losses(self, output: Output, batch: HasLabels) -> dict[str, Tensor]:
        capsules, errors = output.capsules, output.errors
        if batch.shares:
            parts = [self.loss(capsules, self.targets(each.labels), each.weights) for each in batch.shares]
            loss, weights = torch.stack(parts).sum(), torch.stack([each.weights for each in batch.shares]).sum(dim=0)
            errors = None if errors is None else errors * weights
        else:
            loss = self.loss(capsules, self.targets(batch.labels))
        if errors is None:
            return {"loss": loss}
        error = errors.mean()
        return {
            "loss": loss + self.reconstruction_weight * error,
            "class_loss": loss,
            "reconstruction_loss": error,
        }

    @override
    def prediction(self, output: Output, batch: HasLabels) -> Prediction:
        poses, lengths = output.capsules
        return Prediction(output.classes, lengths, output.reconstructions, output.errors, poses)

    @override
    def compared(self, output: Output, batch: HasLabels) -> tuple[Tensor, Tensor]:
        return output.classes, batch.labels

    @override
    def example_batch(self, size: int) -> ImageBatch:
        images = self.net.example_inputs(size).to(self.device)
        labels = torch.zeros(size, dtype=torch.int64, device=self.device)
        return ImageBatch(images, images, labels, labels)

    @override
    def setup(self, stage: str) -> None:
        """Refuse data without classes, with another number of labels, or with weights the loss cannot take.

        Training begins with the vectors of words that the data give, if they do.

        Raises:
            InputError: they are such data, or what `ImageTask.setup` refuses.
        """
        data = getattr(self.trainer, "datamodule", None)
        wanted = getattr(data, "for_task", None)
        require(
            wanted is None,
            f"{type(self).__name__} needs classes, and {type(data).__name__} has none: give --model {wanted}",
        )
        given = getattr(data, "num_labels", self.num_labels)
        if given != self.num_labels:
            remedies = {0: "LabelSetTask", 1: "ClassificationTask"}
            remedy = remedies.get(given, f"MultiLabelTask --model.num_labels {given}")
            numbers = [str(number or "any number") for number in (given, self.num_labels)]
            raise InputError(
                f"num_labels={numbers[0]} of each image, and {type(self).__name__} expects {numbers[1]}: choose other "
                f"data or --model {remedy}"
            )
        if stage == "fit" and isinstance(data, DataModule) and (data.mixes or data.is_weighted):
            what = "mixes images" if data.mixes else "has weights of examples"
            require(
                self.loss.takes_weights,
                f"{type(self.loss).__name__}: takes no weights, and this training {what}: choose another loss, or let "
                "its forward take weights",
            )
        if stage == "fit":
            self.try_loss()
        begins = stage == "fit" and self.trainer.ckpt_path is None  # what is resumed has its own
        vectors = getattr(data, "word_vectors", None) if begins else None
        if isinstance(vectors, Tensor) and isinstance(self.net, WordNet):
            self.net.start_from(vectors)
        super().setup(stage)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """State what the loss has learned among its arguments, which are all that a shared network keeps of it."""
        super().on_save_checkpoint(checkpoint)
        loss_arguments(checkpoint).update(self.loss.learned())

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Tell the loss how far the run is; a run without an end has infinitely many steps."""
        super().on_train_batch_start(batch, batch_idx)
        self.loss.at(self.global_step, self.trainer.estimated_stepping_batches)


def loss_arguments(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the loss that a checkpoint states, to be changed; none if it states no loss."""
    slot = checkpoint.get("hyper_parameters", {}).get("loss")
    given = slot.setdefault("init_args", {}) if isinstance(slot, dict) else None
    return given if isinstance(given, dict) else {}
