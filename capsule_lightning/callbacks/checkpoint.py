"""The checkpoints of a run: the best on the validation set, the last, and the one before the last."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import proxy

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from typing_extensions import override

from capsule_lightning.callbacks.informing import tell
from capsule_lightning.errors import InputError, StoppedError, require
from capsule_lightning.loggers.metrics_file import MetricsFile
from capsule_lightning.runs.checkpoint_files import FOLDER, LAST, PENDING, PREVIOUS, remove_partial, require_checkpoint
from capsule_lightning.runs.signals import SIGNALS, Interrupted
from capsule_lightning.shipped import PROGRAM
from capsule_lightning.tasks.base import Task
from capsule_lightning.tasks.nonfinite import all_finite

UNLOGGED = "unlogged_metrics"
"""Key of a checkpoint: what was measured and not yet logged when it was saved."""


class RunCheckpoint(ModelCheckpoint):
    """Keep the best and the last state under ``checkpoints`` in the run's folder, and save when the run has to end.

    The last state is written after every epoch, every ``every_n_steps`` steps and ``every_n_minutes`` minutes, and when
    a signal asks the run to end (Ctrl-C, SIGTERM, SIGUSR1); all processes agree on that after a step, and leave
    together. The state before the last stays as ``previous.ckpt``. Without a validation set no state is the best; the
    test set never selects.

    Args:
        monitor: validation metric that selects; null for the one that the task names, see `Task.selected_by`.
        mode: ``max`` if the maximum of ``monitor`` is best, ``min`` if its minimum is; null to ask the metric, and the
            metric that the task names always comes with its mode.
        save_top_k: how many of the best to keep.
        dirpath: folder of the checkpoints; null for ``checkpoints`` in the run's folder.
        every_n_steps: training steps between two states; null for no such limit.
        every_n_minutes: minutes between two states; null for no such limit.

    Attributes:
        asks_task: whether the task names the metric that selects.

    Raises:
        InputError: ``every_n_steps`` or ``every_n_minutes`` not above 0.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: str | None = None,
        save_top_k: int = 1,
        dirpath: str | None = None,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = 10.0,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=_filename(monitor or "val/accuracy"),
            auto_insert_metric_name=False,
            monitor=monitor or "val/accuracy",
            mode=mode or "max",
            save_top_k=save_top_k,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        for name, value in (("every_n_steps", every_n_steps), ("every_n_minutes", every_n_minutes)):
            require(value is None or value > 0, f"RunCheckpoint: {name}={value}: expected a number above 0, or null")
        self.asks_task, self._asks_metric = monitor is None, mode is None
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self._step = -1  # the last one seen: while gradients accumulate the step does not advance, and nothing is saved
        self._saved_at = time.monotonic()
        self._due, self._leaving, self._has_saved = False, 0, False
        self._logged: dict[str, Any] = {}  # what the trainer has logged when the part of the step began that is now
        self._unlogged: dict[str, Any] = {}  # what the trainer will log after this part of the step, by a checkpoint

    @property
    def last_path(self) -> Path:
        """Path of the last state."""
        return Path(self.dirpath or FOLDER) / LAST

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the folder, and drop the monitor if no validation set is held out."""
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir).absolute() / FOLDER)
        if isinstance(pl_module, Task) and (self.asks_task or self._asks_metric):
            if self.asks_task:
                name, self.mode = pl_module.selected_by
                self.monitor, self.filename = f"val/{name}", _filename(f"val/{name}")
            else:
                self.mode = best_of(pl_module, str(self.monitor))
            self.kth_value = torch.tensor(float("-inf" if self.mode == "max" else "inf"))
        if stage == "fit" and getattr(getattr(trainer, "datamodule", None), "val_size", None) == 0:
            self.monitor, self.save_top_k = None, 0
        if stage == "fit" and trainer.is_global_zero:
            remove_partial(Path(self.dirpath))
        super().setup(trainer, pl_module, stage)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals wait for the end of a step from here on."""
        super().on_train_start(trainer, pl_module)
        self._step, self._saved_at = trainer.global_step, time.monotonic()
        complete_logs(trainer, self._unlogged)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            SIGNALS.take_note()

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leave if that was agreed; not earlier, so that the loggers have what the last step measured."""
        self._leave_if_agreed(trainer)
        self._logged = dict(trainer.logged_metrics)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the last state if it is due; if validation follows at once, leave that to the end of the validation."""
        if trainer.global_step == self._step or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_logged = trainer.should_stop or (every > 0 and trainer.global_step % every == 0)
        self._unlogged = self._to_be_logged(trainer) if is_logged else {}
        self._step = trainer.global_step
        self._leaving, by_time = largest(trainer, SIGNALS.received or 0, int(self._time_is_up()))
        by_step = self.every_n_steps is not None and self._step % self.every_n_steps == 0
        self._due |= bool(self._leaving or by_time or by_step)
        if self._due and not validation_follows(trainer, batch_idx):
            self.save_last_state(trainer)
        self._logged, self._unlogged = dict(trainer.logged_metrics), {}

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the state if it is among the best, and save it as the last if that waited for the validation."""
        super().on_validation_end(trainer, pl_module)
        if self._due and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.save_last_state(trainer)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last state, and leave if a signal asks for it."""
        self._unlogged = self._to_be_logged(trainer)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save_last_state(trainer)
            (self._leaving,) = largest(trainer, SIGNALS.received or 0)  # one may have come during validation
        self._unlogged = {}
        self._leave_if_agreed(trainer)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals end the process at once again: what follows can be repeated."""
        SIGNALS.leave_at_once()

    @override
    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore our signal handlers, which the trainer has replaced."""
        SIGNALS.leave_at_once()

    @override
    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        SIGNALS.leave_at_once()

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore our signal handlers; within training, signals wait for the end of a step."""
        if trainer.state.fn == "validate":
            SIGNALS.leave_at_once()

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are not finite, and mark a state between two batches of one step.

        Raises:
            StoppedError: an update has made weights NaN or infinite; what was saved before stays.
        """
        if not all_finite(pl_module.state_dict().values()):
            raise StoppedError(
                f"the weights are not finite after step {trainer.global_step - 1}, its update was too large; they are "
                f"not saved. Try a lower --model.optimizer.lr or --trainer.gradient_clip_val 1, from {self.last_path}"
            )
        batches = trainer.fit_loop.epoch_loop.batch_progress
        in_step = batches.current.ready % trainer.accumulate_grad_batches != 0
        checkpoint[PENDING] = bool(in_step and not batches.is_last_batch)
        checkpoint[UNLOGGED] = self._unlogged

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._unlogged = checkpoint.get(UNLOGGED, {})

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        if not isinstance(exception, Interrupted | KeyboardInterrupt):
            return
        name = exception.number.name if isinstance(exception, Interrupted) else "SIGINT"
        run = shlex.quote(os.path.relpath(trainer.default_root_dir))
        resume = f"Resume with:\n  python -m {PROGRAM} fit --resume {run}"
        if self._leaving:  # here, because the progress bar has ended before
            tell(f"\n{name}: stopped after {trainer.global_step} steps; the state is saved. {resume}\n")
        elif trainer.state.fn == "test" and self.last_path.is_file() and self.last_model_path:
            tell(f"\n{name}: stopped in the test; the training is done, and its states are saved. {resume}\n")

    def _to_be_logged(self, trainer: L.Trainer) -> dict[str, Any]:
        """Return the row that the trainer logs after its callbacks; a checkpoint keeps it if the run ends before."""
        found = {k: float(v) for k, v in trainer.logged_metrics.items() if self._logged.get(k) is not v}
        return {"step": max(trainer.global_step - 1, 0), "metrics": found}

    @override
    def format_checkpoint_name(
        self, metrics: dict[str, Tensor], filename: str | None = None, ver: int | None = None, prefix: str | None = None
    ) -> str:
        """Return the path of a state, its epoch counted from 1 as everywhere."""
        counted = {**metrics, "epoch": metrics["epoch"] + 1} if "epoch" in metrics else metrics
        return super().format_checkpoint_name(counted, filename, ver, prefix)

    def save_last_state(self, trainer: L.Trainer) -> None:
        """Write the last state and keep the one before it, by all processes together."""
        path = self.last_path
        if trainer.is_global_zero and path.is_file() and self._is_good(path):
            hard_link(path, path.with_name(PREVIOUS))
        self.last_model_path = str(path)
        trainer.save_checkpoint(path, weights_only=False)
        self._due, self._saved_at, self._has_saved = False, time.monotonic(), True
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.after_save_checkpoint(proxy(self))

    def _is_good(self, path: Path) -> bool:
        """Return whether a last state may become the previous one: always if this process has written it."""
        if not self._has_saved:
            try:
                require_checkpoint(path)
            except InputError:
                return False
        return True

    @override
    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Return whether a state is kept; of equally good ones the latest is."""
        worst = self.best_k_models.get(self.kth_best_model_path)
        return (current is not None and worst is not None and bool(current == worst)) or super().check_monitor_top_k(
            trainer, current
        )

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with those of the best so far whose files exist, also if the run's folder has been moved."""

        def here(path: str) -> str:
            return str(Path(self.dirpath or FOLDER) / Path(path).name) if path else path

        paths = {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items() if Path(here(path)).is_file()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})
        if len(best) < len(state_dict["best_k_models"]):  # a new run from another's checkpoint begins with none
            pick = max if self.mode == "max" else min
            self.best_model_path = pick(best, key=best.__getitem__, default="")
            self.best_model_score = best.get(self.best_model_path)
            self.kth_best_model_path = (min if self.mode == "max" else max)(best, key=best.__getitem__, default="")
            if len(best) < self.save_top_k or not best:
                self.kth_value = torch.tensor(float("-inf" if self.mode == "max" else "inf"))

    def _time_is_up(self) -> bool:
        return self.every_n_minutes is not None and time.monotonic() - self._saved_at >= 60 * self.every_n_minutes

    def _leave_if_agreed(self, trainer: L.Trainer) -> None:
        if self._leaving and not self._due:
            raise Interrupted(self._leaving, trainer.is_global_zero)


def best_of(task: Task, monitor: str) -> str:
    """Return ``min`` if a task's losses or metrics have the lowest value of a name such as ``val/loss`` as best.

    Of a metric that does not say, and of what others log, it is ``max``.
    """
    name = monitor.partition("/")[2]
    lower = name in task.loss_names or getattr(task.metrics("val").get(name), "higher_is_better", None) is False
    return "min" if lower else "max"


def complete_logs(trainer: L.Trainer, row: Mapping[str, Any]) -> None:
    """Write the row that a run had not written yet when its checkpoint was saved, where it lacks it still."""
    if not row:
        return
    for logger in trainer.loggers:
        if isinstance(logger, MetricsFile):
            logger.complete(row["metrics"], row["step"])


def largest(trainer: L.Trainer, *values: int) -> list[int]:
    """Return the largest of each value over all processes."""
    if trainer.world_size == 1:
        return list(values)
    tensor = torch.tensor(values, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return [int(value) for value in tensor.tolist()]


def validation_follows(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether this batch is the last before a validation, or of the epoch."""
    loop, every = trainer.fit_loop.epoch_loop, trainer.val_check_batch
    number = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    in_epoch = isinstance(every, int) and trainer.enable_validation and (number + 1) % every == 0
    return bool(loop.batch_progress.is_last_batch or in_epoch)


def _filename(monitor: str) -> str:
    return f"epoch{{epoch:03d}}_{monitor.split('/')[-1]}{{{monitor}:.4f}}"


def hard_link(path: Path, link: Path) -> None:
    """Hard-link a file atomically; copy it if the file system does not support hard links."""
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:
        shutil.copyfile(path, partial)
    partial.replace(link)
    partial.unlink(missing_ok=True)  # it stays if both names were of one file already
