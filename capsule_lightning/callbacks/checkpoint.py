"""The checkpoints of a run: the best on the validation images, the last, and the one before it."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from pathlib import Path
from typing import Any
from weakref import proxy

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from capsule_lightning.errors import InputError, StoppedError
from capsule_lightning.runs.checkpoint_files import FOLDER, LAST, PENDING, PREVIOUS, remove_partial, require_checkpoint
from capsule_lightning.runs.signals import SIGNALS, Interrupted
from capsule_lightning.shipped import PROGRAM
from capsule_lightning.tasks.nonfinite import all_finite


class RunCheckpoint(ModelCheckpoint):
    """Keeps the best and the last state under ``checkpoints`` in the run's folder, and saves before it is too late.

    The last state is written after every epoch, every so many steps and minutes, and when a signal asks the run to end
    (Ctrl-C, SIGTERM, SIGUSR1); all processes agree on that after a step, and leave together. The one before it stays
    as ``previous.ckpt``. Without a validation set nothing is best; the test set never selects.

    Args:
        monitor: validation metric that selects.
        mode: whether its maximum or its minimum is best.
        save_top_k: how many of the best to keep.
        dirpath: another folder.
        every_n_steps: training steps between two states; null for no such limit.
        every_n_minutes: minutes between two states; null for no such limit.

    Raises:
        InputError: ``every_n_steps`` or ``every_n_minutes`` not above 0.
    """

    def __init__(
        self,
        monitor: str = "val/accuracy",
        mode: str = "max",
        save_top_k: int = 1,
        dirpath: str | None = None,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = 10.0,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=f"epoch{{epoch:03d}}_{monitor.split('/')[-1]}{{{monitor}:.4f}}",
            auto_insert_metric_name=False,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        for name, value in (("every_n_steps", every_n_steps), ("every_n_minutes", every_n_minutes)):
            if value is not None and not value > 0:
                raise InputError(f"RunCheckpoint: {name}={value}: expected a number above 0, or null")
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self._step = -1  # of the last look: while gradients accumulate the step stands still, and nothing is saved
        self._saved_at = time.monotonic()
        self._due, self._leaving, self._has_saved = False, 0, False

    @property
    def last_path(self) -> Path:
        """Of the last state."""
        return Path(self.dirpath or FOLDER) / LAST

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the folder, and drop the monitor where nothing is held out."""
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir).absolute() / FOLDER)
        if stage == "fit" and getattr(getattr(trainer, "datamodule", None), "val_size", None) == 0:
            self.monitor, self.save_top_k = None, 0
        if stage == "fit" and trainer.is_global_zero:
            remove_partial(Path(self.dirpath))
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on, signals wait for the end of a step."""
        super().on_train_start(trainer, pl_module)
        self._step, self._saved_at = trainer.global_step, time.monotonic()
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            SIGNALS.take_note()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leave if that was agreed; not before, so that the loggers have what the last step measured."""
        self._leave_if_agreed(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the last state where it is due, unless validation follows at once: then after it."""
        if trainer.global_step == self._step or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._step = trainer.global_step
        self._leaving, by_time = largest(trainer, SIGNALS.received or 0, int(self._time_is_up()))
        by_step = self.every_n_steps is not None and self._step % self.every_n_steps == 0
        self._due |= bool(self._leaving or by_time or by_step)
        if self._due and not validation_follows(trainer, batch_idx):
            self.save_last_state(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the state if it is among the best, and as the last one where that waited for the validation."""
        super().on_validation_end(trainer, pl_module)
        if self._due and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.save_last_state(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last state."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save_last_state(trainer)
            (self._leaving,) = largest(trainer, SIGNALS.received or 0)  # one may have come during validation
        self._leave_if_agreed(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What follows can be repeated: signals need not wait."""
        SIGNALS.leave_at_once()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put back what the trainer has put in place of our handlers."""
        SIGNALS.leave_at_once()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See `on_test_start`."""
        SIGNALS.leave_at_once()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See `on_test_start`; a validation within training waits for its end."""
        if trainer.state.fn == "validate":
            SIGNALS.leave_at_once()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are not finite, and mark a state between two batches of one step.

        Raises:
            StoppedError: an update has spoilt the weights; what was saved before stays.
        """
        if not all_finite(pl_module.state_dict().values()):
            raise StoppedError(
                f"the weights are not finite after step {trainer.global_step - 1}, its update was too large; they are "
                f"not saved. Try a lower --model.optimizer.lr or --trainer.gradient_clip_val 1, from {self.last_path}"
            )
        batches = trainer.fit_loop.epoch_loop.batch_progress
        in_step = batches.current.ready % trainer.accumulate_grad_batches != 0
        checkpoint[PENDING] = bool(in_step and not batches.is_last_batch)

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        if isinstance(exception, Interrupted) and self._leaving:  # here, because the progress bar has ended before
            run = shlex.quote(os.path.relpath(trainer.default_root_dir))
            rank_zero_info(
                f"\n{exception.number.name}: stopped after {trainer.global_step} steps; the state is saved. Resume "
                f"with:\n  python -m {PROGRAM} fit --resume {run}\n"
            )

    def save_last_state(self, trainer: L.Trainer) -> None:
        """Write the last state, and keep the one before it; all processes together."""
        path = self.last_path
        if trainer.is_global_zero and path.is_file() and self._is_good(path):
            keep_as(path, path.with_name(PREVIOUS))
        self.last_model_path = str(path)
        trainer.save_checkpoint(path, weights_only=False)
        self._due, self._saved_at, self._has_saved = False, time.monotonic(), True
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.after_save_checkpoint(proxy(self))

    def _is_good(self, path: Path) -> bool:
        """Whether a last state may take the place of the one before it: always if this process has written it."""
        if not self._has_saved:
            try:
                require_checkpoint(path)
            except InputError:
                return False
        return True

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Whether a state is kept; of equally good ones the latest is."""
        worst = self.best_k_models.get(self.kth_best_model_path)
        return (current is not None and worst is not None and bool(current == worst)) or super().check_monitor_top_k(
            trainer, current
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best so far that are there, also where the run's folder has been moved."""

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


def largest(trainer: L.Trainer, *values: int) -> list[int]:
    """The largest of all processes, of each value."""
    if trainer.world_size == 1:
        return list(values)
    tensor = torch.tensor(values, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return [int(value) for value in tensor.tolist()]


def validation_follows(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether this batch is the last before a validation, or of the epoch."""
    loop, every = trainer.fit_loop.epoch_loop, trainer.val_check_batch
    number = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    in_epoch = isinstance(every, int) and trainer.enable_validation and (number + 1) % every == 0
    return bool(loop.batch_progress.is_last_batch or in_epoch)


def keep_as(path: Path, kept: Path) -> None:
    """Let a file have a second name in one step, or a copy where the file system knows no second names."""
    partial = kept.with_name(f".{kept.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:
        shutil.copyfile(path, partial)
    partial.replace(kept)
    partial.unlink(missing_ok=True)  # there still where both names were of one file already
