"""The contract of every task, and what they share: optimiser and schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import ceil
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.errors import InputError
from capsule_lightning.schedules import ExponentialDecay, Schedule

ScheduleCallable = Callable[[Optimizer, int], Schedule]


class Task(L.LightningModule, ABC):
    """A network with a loss, metrics, an optimiser and a schedule.

    ``in_shape`` and ``num_classes`` are stated by the data; everything else is a slot that a config fills.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: number of classes.
        optimizer: called with the parameters.
        lr_scheduler: called with the optimiser and the number of training steps; null for a constant rate.
    """

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
            here, there = (tuple(s[name].shape) if name in s else None for s in (mine, theirs))
            if here != there:
                raise InputError(
                    f"the checkpoint is of another network: {name} has shape {there or 'none'} in the checkpoint and "
                    f"{here or 'none'} in this network; give the configuration that the checkpoint was trained with"
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
