"""The contract of every task, and what they share: optimiser, schedule, metrics and their logging."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.errors import InputError
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.schedules import ExponentialDecay, Schedule

ScheduleCallable = Callable[[Optimizer, int], Schedule]


class StageMetrics(nn.Module):
    """Accuracies and mean losses of a stage; each image counts once, on any number of processes.

    Args:
        accuracies: by name, each of predicted and true classes.
        parts: names of the losses.
    """

    def __init__(self, accuracies: Mapping[str, Metric], parts: Sequence[str]) -> None:
        super().__init__()
        self.accuracies = nn.ModuleDict(accuracies)
        self.losses = nn.ModuleDict({part: MeanMetric() for part in parts})

    def update(self, classes: Tensor, labels: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Count predicted ``classes`` against ``labels``, both ``(B)`` or ``(B, L)``, and batch means of the losses."""
        for accuracy in self.accuracies.values():
            accuracy.update(classes, labels)  # type: ignore[operator]
        for part, value in parts.items():
            mean: MeanMetric = self.losses[part]  # type: ignore[assignment]
            mean.update(value, weight=len(labels))


class Task(L.LightningModule, ABC):
    """A network with a loss, metrics, an optimiser and a schedule.

    ``in_shape`` and ``num_classes`` are stated by the data; everything else is a slot that a config fills.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: number of classes.
        optimizer: called with the parameters.
        lr_scheduler: called with the optimiser and the number of training steps; null for a constant rate.

    Attributes:
        num_labels: labels of an image, L.
        loss: of the class capsules; made by the subclass.
    """

    num_labels: int = 1
    loss: ClassificationLoss

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: ScheduleCallable | None = ExponentialDecay,
    ) -> None:
        super().__init__()
        self.in_shape, self.num_classes = tuple(in_shape), num_classes
        self.make_optimizer, self.make_lr_scheduler = optimizer, lr_scheduler

    @abstractmethod
    def training_losses(self, batch: ImageBatch) -> tuple[Capsules, dict[str, Tensor]]:
        """Class capsules of a training batch, and ``loss`` with its parts, each a mean over the batch."""

    def example_batch(self, size: int) -> ImageBatch:
        """Random images of the right shape on the task's device, to try a step with."""
        images = torch.rand(size, *self.in_shape, device=self.device)
        labels = torch.zeros(size, dtype=torch.int64, device=self.device)
        return ImageBatch(images, images, labels, labels)

    def setup(self, stage: str) -> None:
        """Refuse data whose images have another number of labels.

        Raises:
            InputError: as said.
        """
        given = getattr(getattr(self.trainer, "datamodule", None), "num_labels", self.num_labels)
        if given != self.num_labels:
            remedy = "ClassificationTask" if given == 1 else f"MultiLabelTask --model.num_labels {given}"
            raise InputError(
                f"num_labels={given} of each image, and {type(self).__name__} expects {self.num_labels}: choose other "
                f"data or --model {remedy}"
            )

    def on_train_batch_start(self, batch: ImageBatch, batch_idx: int) -> None:
        """Tell the loss how far the run is; a run without an end has infinitely many steps."""
        self.loss.at(self.global_step, self.trainer.estimated_stepping_batches)

    def on_after_backward(self) -> None:
        """Refuse, at the first step, what DistributedDataParallel would end the second one for.

        Raises:
            InputError: parameters that the loss does not reach, under a strategy that waits for their gradients.
        """
        model = self.trainer.strategy.model
        if self.global_step or not isinstance(model, DistributedDataParallel) or model.find_unused_parameters:
            return
        unread = [name for name, p in self.named_parameters() if p.requires_grad and p.grad is None]
        if unread:
            raise InputError(
                f"the loss does not reach {len(unread)} parameters of this network, such as {unread[0]}, and ddp waits "
                "for their gradients: use --trainer.strategy ddp_find_unused_parameters_true"
            )

    def log_training(self, accuracies: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> Tensor:
        """Log the accuracies and losses of a training batch, and give back its ``loss``."""
        for name, value in (*parts.items(), *accuracies.items()):
            self.log(f"train/{name}", value, prog_bar=name in ("loss", "accuracy"), sync_dist=True)
        return parts["loss"]

    def log_metrics(self, stage: Literal["val", "test"], metrics: StageMetrics) -> None:
        """Log accuracies and losses of a stage at its end."""
        for name, metric in (*metrics.accuracies.items(), *metrics.losses.items()):
            self.log(f"{stage}/{name}", metric, prog_bar=name == "accuracy", on_step=False, on_epoch=True)  # type: ignore[arg-type]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and its schedule stepped at every training step."""
        optimizer = self.make_optimizer(self.parameters())
        if self.make_lr_scheduler is None:
            return optimizer
        schedule = self.make_lr_scheduler(optimizer, self.total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another network, naming the first difference.

        Raises:
            InputError: names or shapes differ.
        """
        mine, theirs = self.state_dict(), checkpoint["state_dict"]
        for name in (*mine, *theirs):
            here, there = (tuple(s[name].shape) if name in s else "none" for s in (mine, theirs))
            if here != there:
                raise InputError(
                    f"the checkpoint is of another network: {name} has shape {there} in the checkpoint and "
                    f"{here} in this network; give the configuration that the checkpoint was trained with"
                )

    def total_steps(self) -> int:
        """Training steps of the whole run.

        Not the trainer's own estimate where the data module knows better: that one loads the data early, which loses
        the position in the epoch when a run is resumed.

        Raises:
            InputError: a run without an end.
        """
        trainer = self.trainer
        if trainer.max_steps > 0:
            return trainer.max_steps
        if trainer.max_epochs is None or trainer.max_epochs < 0:
            raise InputError("max_epochs=-1 and max_steps=-1: set one of them, the schedule needs the run's length")
        batches = getattr(getattr(trainer, "datamodule", None), "steps_per_epoch", None)
        if batches is None:
            return int(trainer.estimated_stepping_batches)
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return max(1, ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs)


def loss_names(reconstructs: bool) -> tuple[str, ...]:
    """What `with_reconstruction` returns, by name."""
    return ("loss", "class_loss", "reconstruction_loss") if reconstructs else ("loss",)


def with_reconstruction(loss: Tensor, errors: Tensor | None, weight: float) -> dict[str, Tensor]:
    """The loss to minimise, and its parts.

    Args:
        loss: scalar, of the class capsules.
        errors: ``(B)``, the squared reconstruction error of each image; None without a decoder.
        weight: of their mean.
    """
    if errors is None:
        return {"loss": loss}
    error = errors.mean()
    return {"loss": loss + weight * error, "class_loss": loss, "reconstruction_loss": error}
