"""How far a run is: a bar on a terminal, and a line for each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich import get_console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from typing_extensions import override

from capsule_lightning.callbacks.informing import Informing
from capsule_lightning.callbacks.results import readable
from capsule_lightning.errors import require

FIRST_COLUMN = 9
"""Characters of the first column of the lines, the epoch."""


class RunProgress(Informing, ProgressBar):
    """Show how far a run is.

    After each epoch a line states the losses and accuracies, in training as means over the steps, the seconds that the
    epoch took, and the time that is left. If the output is a terminal, a bar below the lines shows the current epoch.

    Args:
        refresh_rate: redraws of the bar a second.

    Raises:
        InputError: ``refresh_rate`` not above 0.
    """

    def __init__(self, refresh_rate: float = 10.0) -> None:
        super().__init__()
        require(refresh_rate > 0, f"RunProgress: refresh_rate={refresh_rate}: must be above 0, such as 10")
        self._refresh_rate = refresh_rate
        self._enabled = True
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._drawn_at = 0.0
        self._columns: tuple[str, ...] = ()  # of the last heading
        self._begun_at = self._epoch_begun_at = 0.0
        self._first_step = 0
        self._steps = 0
        self._sums: dict[str, float] = {}  # of the training metrics of this epoch

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the bar, which holds locks."""
        return {**vars(self), "_bar": None}

    @override
    def disable(self) -> None:
        self._stop()
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def print(self, *args: Any, **kwargs: Any) -> None:
        print(*args, **kwargs)  # the bar, while it is there, lets what is printed pass above it

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._columns = ()
        self._begun_at, self._first_step = time.perf_counter(), trainer.global_step
        self._begin_epoch()

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch_begun_at = time.perf_counter()
        self._steps, self._sums = 0, {}

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is None:
            self._draw(f"epoch {epoch_of(trainer)}", batch_idx, self.total_train_batches)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._enabled:
            return
        metrics = trainer.progress_bar_metrics
        self._steps += 1
        for name, value in metrics.items():
            if name.startswith("train/"):
                self._sums[name] = self._sums.get(name, 0.0) + value
        done, total = batch_idx + 1, self.total_train_batches
        if self._bar is not None and self._is_due(done, total):
            validated = {name: value for name, value in metrics.items() if name.startswith("val/")}
            shown, left = in_short({**self._means(), **validated}), self._time_left(trainer)
            self._draw(f"epoch {epoch_of(trainer)}", done, total, shown, "" if left is None else f"{left} left")

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = trainer.callback_metrics  # by all processes together: they may be added up here
        self._stop()
        if not self._enabled or not self._steps:
            return
        validated = {"val/loss", *trainer.progress_bar_metrics} & metrics.keys()
        values = {
            **self._means(),
            **{name: float(metrics[name]) for name in sorted(validated, reverse=True) if name.startswith("val/")},
        }
        seconds, left = time.perf_counter() - self._epoch_begun_at, self._time_left(trainer)
        columns = (*(name.replace("/", " ") for name in values), "seconds", "left")
        cells = (
            *(readable(name, value) for name, value in values.items()),
            f"{seconds:.1f}",
            "-" if left is None else str(left),
        )
        if columns != self._columns:
            self._columns = columns
            self.print(f"{'epoch':<{FIRST_COLUMN}}" + "".join(f"  {column:>7}" for column in columns))
        widths = (max(len(column), 7) for column in columns)
        row = "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        self.print(f"{epoch_of(trainer):<{FIRST_COLUMN}}{row}", flush=True)

    def _means(self) -> dict[str, float]:
        return {name: total / self._steps for name, total in self._sums.items()}

    def _time_left(self, trainer: L.Trainer) -> timedelta | None:
        """Return the time that the rest of the run takes at its speed so far, or None if that is unknown."""
        steps, done = trainer.estimated_stepping_batches, trainer.global_step - self._first_step
        if done < 1 or not math.isfinite(steps):
            return None
        seconds = (time.perf_counter() - self._begun_at) / done * (steps - trainer.global_step)
        return timedelta(seconds=max(0, round(seconds)))

    @override
    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._draw("validation", batch_idx + 1, batches[dataloader_idx])

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            self._stop()

    @override
    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._draw("test", batch_idx + 1, trainer.num_test_batches[dataloader_idx])

    @override
    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    @override
    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._draw("prediction", batch_idx + 1, trainer.num_predict_batches[dataloader_idx])

    @override
    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._stop()

    def _is_due(self, done: int, total: float) -> bool:
        """Return whether the state of the bar is to be shown: the last one is old enough, or the bar is full."""
        return done >= total or time.perf_counter() - self._drawn_at >= 1 / self._refresh_rate

    def _draw(self, what: str, done: int, total: float, metrics: str = "", left: str = "") -> None:
        """Show a state of the bar if it is due and the output is a terminal."""
        if self._bar is None:
            console = get_console()
            if not self._enabled or not console.is_terminal or console.is_dumb_terminal:
                return
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                *(TextColumn(f"{{task.fields[{field}]}}") for field in ("count", "metrics", "left")),
                console=console,
                refresh_per_second=self._refresh_rate,
                transient=True,
                expand=True,
            )
            self._task = self._bar.add_task(what, count="", metrics="", left="")
            self._bar.start()
        elif not self._is_due(done, total):
            return
        self._drawn_at = time.perf_counter()
        known = math.isfinite(total)
        self._bar.update(
            self._task,
            description=what,
            completed=done,
            total=total if known else None,
            count=f"{done}/{total:.0f}" if known else f"{done}",
            metrics=metrics,
            left=left,
        )

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def epoch_of(trainer: L.Trainer) -> str:
    """Return the number of the current epoch, and of all epochs if that is known, counted from 1."""
    number = f"{trainer.current_epoch + 1}"
    return number if trainer.max_epochs is None or trainer.max_epochs < 0 else f"{number}/{trainer.max_epochs}"


def in_short(metrics: Mapping[str, float]) -> str:
    """Return metrics of training and validation as a few words.

    Example:
        >>> in_short({"train/loss": 0.3, "train/accuracy": 0.9, "val/accuracy": 0.85})
        'loss 0.3000 accuracy 90.0% val 85.0%'
    """
    words = []
    for name, value in metrics.items():
        stage, _, metric = name.partition("/")
        shown = metric if stage == "train" else stage if f"train/{metric}" in metrics else f"{stage} {metric}"
        words.append(f"{shown} {readable(name, value)}")
    return " ".join(words)
