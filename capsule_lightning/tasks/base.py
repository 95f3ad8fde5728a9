"""The contract of every task, and what they share: optimizer, schedule, metrics and their logging."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from math import ceil, isfinite
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.errors import InputError, StoppedError
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.runs.checkpoint_files import require_weights
from capsule_lightning.schedules import ExponentialDecay, Schedule
from capsule_lightning.tasks.nonfinite import (
    OTHER_PRECISION,
    SKIPPING,
    SeenBatch,
    account,
    all_finite,
    finding,
    last_checkpoint,
    loss_is_finite,
    not_finite,
    poisoning,
    remedies,
)

ScheduleCallable = Callable[[Optimizer, int], Schedule]

_SCALER_SEARCH = 20  # steps that a gradient scaler may take to find its scale: from 2^16 on, far beyond any need


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
    """A network with a loss, metrics, an optimizer and a schedule.

    ``in_shape`` and ``num_classes`` are stated by the data; everything else is a slot that a config fills.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: number of classes.
        optimizer: called with the parameters.
        lr_scheduler: called with the optimizer and the number of training steps; null for a constant rate.
        skip_not_finite: steps in a row that are left out, without any update, when their loss or gradients are NaN or
            infinite; one more ends the run with a `StoppedError`. 0 ends it at the first.

    Attributes:
        num_labels: labels of an image, L.
        loss: of the class capsules; made by the subclass.

    Raises:
        InputError: a negative ``skip_not_finite``; values that the optimizer or the schedule refuses.
    """

    num_labels: int = 1
    loss: ClassificationLoss

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: ScheduleCallable | None = ExponentialDecay,
        skip_not_finite: int = 0,
    ) -> None:
        super().__init__()
        if skip_not_finite < 0:
            raise InputError(f"skip_not_finite={skip_not_finite}: expected 0 or a number of steps")
        self.in_shape, self.num_classes = tuple(in_shape), num_classes
        self.make_optimizer, self.make_lr_scheduler = optimizer, lr_scheduler
        self.skip_not_finite = skip_not_finite
        require_optimizer(optimizer, lr_scheduler)
        self._not_finite_in_a_row = 0
        self._seen: list[SeenBatch] = []  # since the last step of the optimizer
        self._buffers_before: dict[str, Tensor] = {}

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
        """Tell the loss how far the run is, which without an end has infinitely many steps; remember the batch.

        Chance within the network, such as dropout, is a function of seed, epoch and batch alone, so that a run that is
        resumed draws what it would have drawn.
        """
        torch.manual_seed(step_seed(self.trainer.current_epoch, batch_idx, self.trainer.global_rank))
        self.loss.at(self.global_step, self.trainer.estimated_stepping_batches)
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._seen = []
            if self.skip_not_finite:  # the running statistics of a batch that is left out must not stay
                self._buffers_before = {name: buffer.clone() for name, buffer in self.named_buffers()}
        sizes = torch.linalg.vector_norm(batch.images, dim=(1, 2, 3))
        self._seen.append(SeenBatch(batch.indices, sizes, {}))

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

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leave a step out, or stop the run, where gradients are not finite.

        Those of all batches since the last step are looked at, before they are clipped. Processes have the same
        gradients and decide alike. A gradient scaler leaves such steps out by itself, and makes some on its search for
        a scale: as long as the losses are finite it is given 20 in a row.

        Raises:
            StoppedError: more of them in a row than ``skip_not_finite``, or weights that are not finite themselves.
        """
        if all_finite(p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            self._not_finite_in_a_row = 0
            return
        self._not_finite_in_a_row += 1
        in_a_row, allowed = self._not_finite_in_a_row, self.skip_not_finite
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        scaled_too_far = scaler is not None and self._all_processes(loss_is_finite(self._seen))
        if scaled_too_far:
            allowed = max(_SCALER_SEARCH, self.skip_not_finite) - 1
        weights_are_good = all_finite(self.parameters())
        if scaled_too_far and weights_are_good and in_a_row <= allowed:
            return
        gradients = not_finite({name: p.grad for name, p in self.named_parameters() if p.grad is not None})
        found = finding(self.global_step, self.current_epoch, self._accounts(), gradients)
        if in_a_row > allowed or not weights_are_good:
            self._not_finite_in_a_row = 0
            other = OTHER_PRECISION if scaled_too_far else SKIPPING if not self.skip_not_finite else ""
            advice = remedies(in_a_row, other, weights_are_good, last_checkpoint(self.trainer))
            raise StoppedError(f"{found}. {advice}")
        rank_zero_warn(f"left out {found} ({in_a_row} in a row; more than {allowed} end the run)")
        share = 1 / self.trainer.world_size  # summed over processes it is one step
        self.log("train/skipped_steps", share, on_step=False, on_epoch=True, reduce_fx="sum", sync_dist=True)
        self._leave_out(has_scaler=scaler is not None)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer says, unless the step is left out: clipping by value takes no empty list."""
        if any(parameter.grad is not None for parameter in self.parameters()):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _leave_out(self, has_scaler: bool) -> None:
        buffers = dict(self.named_buffers())
        for name, before in self._buffers_before.items():
            buffers[name].copy_(before)
        if not has_scaler:  # which has seen the gradients, and wants them there
            for parameter in self.parameters():
                parameter.grad = None

    def _all_processes(self, decision: bool) -> bool:
        return bool(self.trainer.strategy.reduce_boolean_decision(decision))

    def _accounts(self) -> list[str]:
        accounts = [account(self._seen)]
        if self.trainer.world_size > 1:
            accounts *= self.trainer.world_size
            torch.distributed.all_gather_object(accounts, accounts[0])
        return accounts

    def log_training(self, accuracies: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> Tensor:
        """Log the accuracies and losses of a training batch, and give back its ``loss``.

        Its gradients are NaN where it is not finite, see `poisoning`.
        """
        if self._seen:  # not in a loop of one's own
            self._seen[-1].parts.update({name: value.detach() for name, value in parts.items()})
        for name, value in (*parts.items(), *accuracies.items()):
            self.log(f"train/{name}", value, prog_bar=name in ("loss", "accuracy"), sync_dist=True)
        return poisoning(parts["loss"])

    def log_metrics(self, stage: Literal["val", "test"], metrics: StageMetrics) -> None:
        """Log accuracies and losses of a stage at its end."""
        for name, metric in (*metrics.accuracies.items(), *metrics.losses.items()):
            self.log(f"{stage}/{name}", metric, prog_bar=name == "accuracy", on_step=False, on_epoch=True)  # type: ignore[arg-type]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and its schedule stepped at every training step."""
        optimizer = self.make_optimizer(self.parameters())
        if self.make_lr_scheduler is None:
            return optimizer
        schedule = self.make_lr_scheduler(optimizer, self.total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep how many steps in a row were not finite."""
        checkpoint["not_finite_in_a_row"] = self._not_finite_in_a_row

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another network, naming the first difference.

        Raises:
            InputError: names or shapes differ.
        """
        require_weights("the checkpoint", checkpoint, self)
        self._not_finite_in_a_row = checkpoint.get("not_finite_in_a_row", 0)

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


def require_optimizer(make_optimizer: OptimizerCallable, make_lr_scheduler: ScheduleCallable | None) -> None:
    """Try optimizer and schedule on a parameter of no meaning: what they refuse is known before any data are read.

    Raises:
        InputError: they refuse a value, or a learning rate is not finite.
    """
    try:
        optimizer = make_optimizer([nn.Parameter(torch.zeros(2, 2))])
    except (ValueError, TypeError) as error:
        raise InputError(f"model.optimizer: {error}; give another value, such as --model.optimizer.lr 0.001") from error
    for group in optimizer.param_groups:
        if not isfinite(group["lr"]):
            raise InputError(f"model.optimizer: lr={group['lr']}: expected a finite number, such as 0.001")
    if make_lr_scheduler is not None:
        make_lr_scheduler(optimizer, 1)


def step_seed(epoch: int, batch: int, rank: int) -> int:
    """A seed for each batch of each process, from that of the run; neighbors are far apart.

    Example:
        >>> step_seed(0, 1, 0) != step_seed(1, 0, 0) != step_seed(0, 0, 1)
        True
    """
    words = (int(os.environ.get("PL_GLOBAL_SEED", 0)), epoch, batch, rank)  # set by seed_everything
    return int.from_bytes(blake2b(repr(words).encode(), digest_size=8).digest(), "little")


def loss_names(reconstructs: bool) -> tuple[str, ...]:
    """What `with_reconstruction` returns, by name."""
    return ("loss", "class_loss", "reconstruction_loss") if reconstructs else ("loss",)


def with_reconstruction(loss: Tensor, errors: Tensor | None, weight: float) -> dict[str, Tensor]:
    """The loss to minimize, and its parts.

    Args:
        loss: scalar, of the class capsules.
        errors: ``(B)``, the squared reconstruction error of each image; None without a decoder.
        weight: of their mean.
    """
    if errors is None:
        return {"loss": loss}
    error = errors.mean()
    return {"loss": loss + weight * error, "class_loss": loss, "reconstruction_loss": error}
