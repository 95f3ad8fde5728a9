"""The contract of every task: four verbs, around which Lightning's steps, optimizer and schedule are written once."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from math import ceil, isfinite, nan
from typing import Any, ClassVar, Literal, get_args

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MeanMetric, Metric
from typing_extensions import override

from capsule_lightning.encoders.base import Encoder
from capsule_lightning.errors import InputError, require
from capsule_lightning.runs.checkpoint_files import require_weights
from capsule_lightning.runs.plain_values import names_classes, path_of, stated, without_sources
from capsule_lightning.schedules import ExponentialDecay, Schedule, make_schedule
from capsule_lightning.tasks.nonfinite import NonFiniteGuard, nan_gradients_unless_finite

ScheduleCallable = Callable[[Optimizer, int], Schedule] | Callable[[Optimizer], LRScheduler]
Stage = Literal["val", "test"]


class Task(L.LightningModule, ABC):
    """A network with losses, predictions and metrics, an optimizer and a schedule.

    A subclass says what its network makes of a batch (`output`), what is minimized (`losses`), what callbacks and files
    get to see (`prediction`) and how good that is (`metrics`, of what it has `compared`). The steps of training and
    evaluation follow from these, whatever a batch is: a tuple whose first tensor ``(B, ...)`` is the network's input.

    Args:
        optimizer: called with the parameters.
        lr_scheduler: called with the optimizer and the number of training steps, see `Schedule`; or one of torch's,
            called with the optimizer and stepped once an epoch; null for a constant rate. `ReduceLROnPlateau` looks at
            its ``monitor``, or else at ``val/loss``.
        skip_not_finite: steps in a row that are left out, without any update, when their loss or gradients are NaN or
            infinite; one more ends the run with a `StoppedError`. 0 ends it at the first.

    Attributes:
        loss_names: the keys of `losses`, known before any batch is seen.
        training_names: the keys of `training_metrics`, known likewise.
        results: options of ``predict`` that name files which the task's predictions can fill, and how their names end.
        selected_by: the metric or loss by whose validation value the best state is selected, and whether its ``max``
            or its ``min`` is best.
        step_losses: the losses of the last training batch, without their gradients.

    Raises:
        InputError: a negative ``skip_not_finite``; values that the optimizer or the schedule refuses.
    """

    results: ClassVar[Mapping[str, Sequence[str]]] = {"output": (".csv", ".parquet", ".txt"), "embeddings": (".npz",)}
    loss_names: Sequence[str] = ("loss",)
    training_names: Sequence[str] = ()
    selected_by: tuple[str, Literal["min", "max"]] = ("loss", "min")

    def __init__(
        self,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: ScheduleCallable | None = ExponentialDecay,
        skip_not_finite: int = 0,
    ) -> None:
        super().__init__()
        self.guard = NonFiniteGuard(skip_not_finite)
        self.make_optimizer, self.make_lr_scheduler = optimizer, lr_scheduler
        self._lr = require_optimizer(optimizer, lr_scheduler)
        self.step_losses: Mapping[str, Tensor] = {}
        self._stage_metrics: nn.ModuleDict | None = None
        self._stage_losses = nn.ModuleDict()

    @abstractmethod
    def output(self, batch: Any) -> Any:
        """Return what the network says about a batch: all that the other verbs need, so that it runs once."""

    @abstractmethod
    def losses(self, output: Any, batch: Any) -> dict[str, Tensor]:
        """Return ``loss``, which is minimized, and its parts by name, each a scalar and a mean over the batch."""

    @abstractmethod
    def prediction(self, output: Any, batch: Any) -> Any:
        """Return a NamedTuple for callbacks and files; a callback leaves out what it finds no field for."""

    def metrics(self, stage: Stage) -> Mapping[str, Metric]:
        """Return new metrics of a stage by name, each of which is given what is `compared`; none unless overridden."""
        return {}

    def compared(self, output: Any, batch: Any) -> tuple[Tensor, ...]:
        """Return the arguments of every metric's ``update``, usually predictions and the truth."""
        raise NotImplementedError(f"{type(self).__name__} has metrics: implement `compared`, which they are given")

    def training_metrics(self, output: Any, batch: Any) -> Mapping[str, Tensor]:
        """Return numbers of one training batch, logged beside its losses; none unless overridden.

        They are plain tensors because a metric's bookkeeping takes longer than a small network's loss.
        """
        return {}

    @property
    def lr(self) -> float:
        """Learning rate of the optimizer, which a schedule multiplies; Lightning's `Tuner` sets it."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        require(isfinite(value) and value >= 0, f"lr={value}: expected a finite number, such as 0.001")
        self._lr, self.make_optimizer = value, partial(optimizer_at, value, self.make_optimizer)

    def example_batch(self, size: int) -> Any:
        """Return a random batch of the right shapes on the task's device, to try a step with; None if it has none."""
        return None

    def try_loss(self) -> None:
        """Refuse a loss that cannot take what the network says, before any data are read, if the task can tell.

        Raises:
            InputError: it cannot.
        """

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        output = self.output(batch)
        losses = self.losses(output, batch)
        self.step_losses = {name: value.detach() for name, value in losses.items()}
        for name, value in {**losses, **self.training_metrics(output, batch)}.items():
            self.log(f"train/{name}", value, prog_bar=name in ("loss", "accuracy"), sync_dist=True)
        return nan_gradients_unless_finite(losses["loss"])

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self._evaluate(batch, "val")

    @override
    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return self._evaluate(batch, "test")

    @override
    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.prediction(self.output(batch), batch)

    def weight(self, batch: Any) -> int:
        """Return what the losses of a batch count as in the mean of an evaluation: its examples, unless overridden."""
        return len(batch[0])

    def _evaluate(self, batch: Any, stage: Stage) -> Any:
        """Return the prediction of a batch, counted in metrics and mean losses; each example counts once."""
        output, metrics = self.output(batch), self.stage_metrics(stage)
        compared = self.compared(output, batch) if metrics else ()
        for name, metric in metrics.items():
            metric.update(*compared)  # type: ignore[operator]
            self.log(f"{stage}/{name}", metric, prog_bar=name == "accuracy", on_step=False, on_epoch=True)  # type: ignore[arg-type]
        means = self._stage_losses[stage]
        for name, value in self.losses(output, batch).items():
            means[name].update(value, weight=self.weight(batch))  # type: ignore[index]
            self.log(f"{stage}/{name}", means[name], on_step=False, on_epoch=True)  # type: ignore[index]
        return self.prediction(output, batch)

    def stage_metrics(self, stage: Stage) -> nn.ModuleDict:
        """Return the metrics of a stage, those of all stages made when the first is asked for."""
        if self._stage_metrics is None:
            made = {each: nn.ModuleDict(self.metrics(each)) for each in get_args(Stage)}
            self._stage_metrics = nn.ModuleDict(made).to(self.device)
            # Lightning's own mean over processes rounds the number of examples down; what is NaN here stays NaN
            means = {each: {name: MeanMetric(nan_strategy=nan) for name in self.loss_names} for each in made}
            self._stage_losses = nn.ModuleDict({k: nn.ModuleDict(v) for k, v in means.items()}).to(self.device)
        found: nn.ModuleDict = self._stage_metrics[stage]  # type: ignore[assignment]
        return found

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make chance within the network, such as dropout, a function of seed, epoch and batch alone.

        A run that is resumed then draws what it would have drawn.
        """
        seed = step_seed(self.trainer.current_epoch, batch_idx, self.trainer.global_rank)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # without a note for GPUs that there are not, which takes longer
        else:
            torch.manual_seed(seed)

    @override
    def on_after_backward(self) -> None:
        """Refuse, at the first step, what DistributedDataParallel would end the second one for.

        Raises:
            InputError: the loss does not reach some parameters, and the strategy waits for their gradients.
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

    @override
    def configure_callbacks(self) -> list[L.Callback]:
        """Bring the guard along, unless the trainer has it from an earlier stage."""
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [] if self.guard in callbacks else [self.guard]

    @override
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer says, unless the step is left out: clipping by value does not accept an empty list."""
        if any(parameter.grad is not None for parameter in self.parameters()):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer of what is not frozen, and its schedule.

        The schedule advances at every step; one of torch's once an epoch.
        """
        groups = self.groups_by_rate()
        several: list[Any] = [{"params": parameters} for parameters in groups.values()]
        optimizer = self.make_optimizer(several if len(groups) > 1 else [p for each in groups.values() for p in each])
        if len(groups) > 1:
            for group, factor in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] *= factor
        if self.make_lr_scheduler is None:
            return optimizer
        schedule = make_schedule(self.make_lr_scheduler, optimizer, self.total_steps())
        config: dict[str, Any] = {
            "scheduler": schedule,
            "interval": "step" if isinstance(schedule, Schedule) else "epoch",
            "name": "lr",
        }
        if isinstance(schedule, ReduceLROnPlateau):
            config |= {"monitor": monitored(schedule), "reduce_on_plateau": True}
        return {"optimizer": optimizer, "lr_scheduler": config}  # type: ignore[return-value]

    def groups_by_rate(self) -> dict[float, list[nn.Parameter]]:
        """Return what is not frozen by the factor on its rate, the highest first; see `Encoder.rate_factors`."""
        factors: dict[nn.Parameter, float] = {}
        for module in self.modules():
            if isinstance(module, Encoder):
                factors.update(module.rate_factors())
        found: dict[float, list[nn.Parameter]] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                found.setdefault(factors.get(parameter, 1.0), []).append(parameter)
        return dict(sorted(found.items(), reverse=True))

    @override
    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Advance a schedule, but for one that looks at a metric: a state saved at the epoch's end would lack that."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    @override
    def on_train_epoch_end(self) -> None:
        """Advance a schedule that looks at a metric, before the state of the epoch's end is saved."""
        for config in self.trainer.lr_scheduler_configs:
            schedule, metrics = config.scheduler, self.trainer.callback_metrics
            if isinstance(schedule, ReduceLROnPlateau) and monitored(schedule) in metrics:
                schedule.step(metrics[monitored(schedule)])

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """State by plain values how task and data were made.

        A checkpoint then loads wherever only plain values are read, and builds the task without a configuration.
        """
        for key, made in (
            (self.CHECKPOINT_HYPER_PARAMS_KEY, type(self)),
            (L.LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY, type(getattr(self.trainer, "datamodule", None))),
        ):
            if key in checkpoint:
                checkpoint[key] = recipe(checkpoint[key], made)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another network.

        Raises:
            InputError: names or shapes of the weights differ, naming the first difference.
        """
        require_weights("the checkpoint", checkpoint, self)

    def total_steps(self) -> int:
        """Return the number of training steps of the whole run.

        This is not the trainer's own estimate if the data module knows better: that one loads the data early, which
        loses the position in the epoch when a run is resumed.

        Raises:
            InputError: the run has no end.
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


def recipe(arguments: Mapping[str, Any], made: type) -> dict[str, Any]:
    """Return the arguments of a task or a data module as plain values, from which Lightning can make it again.

    Arguments that plain values cannot state are left out, and those that name the source of initial weights are null.

    Args:
        arguments: of its constructor, as Lightning's ``hparams`` has them.
        made: its class.
    """
    found: dict[str, Any] = without_sources(stated(arguments))
    if names_classes(found):
        found.setdefault("_instantiator", "lightning.pytorch.cli.instantiate_module")
        with suppress(TypeError):  # a class that was made within a function
            found.setdefault("_class_path", path_of(made))
    return found


def optimizer_at(rate: float, make: OptimizerCallable, parameters: Any) -> Optimizer:
    """Return an optimizer whose learning rate is another one than it was made with."""
    optimizer = make(parameters)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return optimizer


def require_optimizer(make_optimizer: OptimizerCallable, make_lr_scheduler: ScheduleCallable | None) -> float:
    """Try optimizer and schedule on a dummy parameter, so that what they refuse is known before any data are read.

    Returns:
        The learning rate of its first parameters.

    Raises:
        InputError: they refuse a value, or a learning rate is not finite.
    """
    try:
        optimizer = make_optimizer([nn.Parameter(torch.zeros(2, 2))])
    except (ValueError, TypeError) as error:
        raise InputError(f"model.optimizer: {error}; give another value, such as --model.optimizer.lr 0.001") from error
    for group in optimizer.param_groups:
        lr = group["lr"]
        require(isfinite(lr), f"model.optimizer: lr={lr}: expected a finite number, such as 0.001")
    rate = float(optimizer.param_groups[0]["lr"])
    if make_lr_scheduler is not None:
        try:
            make_schedule(make_lr_scheduler, optimizer, 1)
        except InputError:
            raise
        except (ValueError, TypeError) as error:
            raise InputError(f"model.lr_scheduler: {error}; give another value") from error
    return rate


def monitored(schedule: LRScheduler) -> str:
    """Return the metric that a schedule looks at."""
    return str(getattr(schedule, "monitor", "val/loss"))


def step_seed(epoch: int, batch: int, rank: int) -> int:
    """Return a seed for each batch of each process, derived from that of the run; neighbors are far apart.

    Example:
        >>> step_seed(0, 1, 0) != step_seed(1, 0, 0) != step_seed(0, 0, 1)
        True
    """
    words = (int(os.environ.get("PL_GLOBAL_SEED", 0)), epoch, batch, rank)  # set by seed_everything
    return int.from_bytes(blake2b(repr(words).encode(), digest_size=8).digest(), "little")
