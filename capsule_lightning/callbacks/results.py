"""The result of a test or a validation, as a person reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import lightning as L
from rich import box, get_console
from rich.table import Table
from typing_extensions import override

from capsule_lightning.analysis.intervals import wilson_interval
from capsule_lightning.callbacks.collected import of_all_processes
from capsule_lightning.callbacks.informing import Informing
from capsule_lightning.loggers.metrics_file import MetricsFile

_ROUNDING = 0.02  # of float32 metrics, for some hundred thousand images
TITLES = {"test": "Result on the test set", "val": "Result on the validation set"}
"""Title of the table for each stage, by the first part of the names of its metrics."""


class ResultTable(Informing):
    """Print a table of the result after a test, and after a validation that is no part of training.

    Accuracies and errors come first, in percent, then the losses. Metrics of single classes are only written to the
    run's files. The trainer's own table is printed beside it unless it is called with ``verbose=False``.
    """

    def __init__(self) -> None:
        self._count = 0

    @override
    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._count = 0

    @override
    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._count += len(batch[0])

    @override
    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add up the images of all processes."""
        self._count = sum(of_all_processes(trainer, [self._count]))

    @override
    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        show(trainer, "test", self._count)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "validate":
            show(trainer, "val")


def prints_result(trainer: L.Trainer) -> bool:
    """Return whether a callback of a trainer prints the result, so that the trainer itself need not."""
    return any(isinstance(callback, ResultTable) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def show(trainer: L.Trainer, stage: str, count: int | None = None) -> None:
    """Print the metrics of a stage, ``test`` or ``val``, from the first process.

    Args:
        trainer: of the run.
        stage: ``test`` or ``val``.
        count: number of images, if it is known.
    """
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(f"{stage}/")}
    found = rows(metrics, count)
    if not found or not trainer.is_global_zero:
        return
    table = Table(title=TITLES[stage], box=box.SIMPLE_HEAD, show_header=False, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for row in found:
        table.add_row(*row)
    get_console().print(table)
    files = [logger.path for logger in trainer.loggers if isinstance(logger, MetricsFile)]
    if files and any(name.count("/") > 1 for name in metrics):
        print(f"each class: {os.path.relpath(files[0])}", flush=True)


def rows(metrics: Mapping[str, float], count: int | None = None) -> list[tuple[str, str]]:
    """Return the rows of the table: accuracies with their errors, then other metrics, then losses.

    Args:
        metrics: of a stage, by name.
        count: number of images, if it is known.

    Example:
        >>> rows({"test/loss": 0.25, "test/class_accuracy/3": 1.0, "test/accuracy": 0.975})
        [('accuracy', '97.50 %'), ('error', '2.50 %'), ('loss', '0.2500')]
        >>> rows({"test/accuracy": 0.975}, 40)
        [('accuracy', '97.50 % (39 of 40, 95 % interval 87.12 to 99.56)'), ('error', '2.50 %')]
    """
    accuracies: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    losses: list[tuple[str, str]] = []
    for name, value in metrics.items():
        _, _, metric = name.partition("/")
        words = metric.replace("_", " ")
        if "/" in metric:
            continue
        if is_share(metric):
            error = words.removesuffix("accuracy") + "error"
            right = value * (count or 0)
            is_count = metric == "accuracy" and bool(count) and abs(right - round(right)) < _ROUNDING
            counted = f" ({counts(round(right), count or 0)})" if is_count else ""
            accuracies += [(words, f"{100 * value:.2f} %{counted}"), (error, f"{100 * (1 - value):.2f} %")]
        else:
            (losses if metric.endswith("loss") else others).append((words, readable(name, value)))
    return accuracies + others + losses


def counts(right: int, count: int) -> str:
    """Say how many predictions are right, and how far the choice of the images alone may have moved that share."""
    low, high = wilson_interval(right, count)
    return f"{right:,} of {count:,}, 95 % interval {100 * low:.2f} to {100 * high:.2f}"


def is_share(name: str) -> bool:
    """Return whether a metric is a share of all predictions, from 0 to 1, which is best read in percent."""
    return name.endswith("accuracy")


def readable(name: str, value: float) -> str:
    """Return the value of a metric in few characters.

    Example:
        >>> readable("val/accuracy", 0.9876), readable("val/loss", 0.12345), readable("val/loss", 12345.6)
        ('98.8%', '0.1235', '1.235e+04')
    """
    if is_share(name):
        return f"{100 * value:.1f}%"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"
