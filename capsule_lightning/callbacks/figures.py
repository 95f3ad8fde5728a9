"""Where a figure of a run goes, and when pictures of its images are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor

from capsule_lightning.data.base import ImageBatch
from capsule_lightning.errors import InputError

Row = TypeVar("Row")


def publish(trainer: L.Trainer, name: str, figure: Figure) -> None:
    """Write a figure to ``figures/<name>.png`` in the run's folder and to every logger that takes images.

    A trial run of a single batch (``fast_dev_run``) leaves nothing behind.

    Args:
        trainer: of the run.
        name: such as ``val/reconstructions``.
        figure: drawn, not shown.
    """
    if getattr(trainer, "fast_dev_run", False):
        return
    path = Path(trainer.default_root_dir) / "figures" / f"{name.replace('/', '_')}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    for logger in trainer.loggers:
        log_image = getattr(logger, "log_image", None)
        if log_image is not None:
            log_image(key=name, images=[str(path)], step=max(trainer.global_step - 1, 0))  # that of the metrics


class DrawnNowAndThen(L.Callback, ABC):
    """Keeps what it needs of the images of a validation or a test, and draws it at their end.

    In training that is after epochs 1, 2, 4, 8, ... and the last: often while much changes, and never at a cost.
    """

    @abstractmethod
    def keep(self, trainer: L.Trainer, outputs: Any, batch: ImageBatch) -> None:
        """Keep something of a batch."""

    @abstractmethod
    def draw_kept(self, trainer: L.Trainer, task: L.LightningModule, stage: str, when: str) -> None:
        """Publish figures of what was kept, if anything was.

        Args:
            trainer: of the run.
            task: of the run.
            stage: ``val``, ``test`` or ``predict``.
            when: the same for a title, with the epoch of a validation.
        """

    @abstractmethod
    def forget(self) -> None:
        """Drop what was kept."""

    def end_stage(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Draw what was kept, and drop it; the check before training is not worth a figure."""
        if not trainer.sanity_checking and trainer.is_global_zero:
            when = f"{stage}, after {trainer.current_epoch + 1} epochs" if stage == "val" else stage
            self.draw_kept(trainer, task, stage, when)
        self.forget()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep a few images."""
        self.keep(trainer, outputs, batch)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep a few images."""
        self.keep(trainer, outputs, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw them, in training only now and then."""
        epochs = trainer.current_epoch + 1
        if trainer.state.fn != TrainerFn.FITTING or epochs.bit_count() == 1 or epochs == trainer.max_epochs:
            self.end_stage(trainer, pl_module, "val")
        else:
            self.forget()

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw them."""
        self.end_stage(trainer, pl_module, "test")


class ImageFigures(DrawnNowAndThen, Generic[Row]):
    """After validation, test and prediction: a figure of the first images, and one of those predicted wrongly.

    When in training, see `DrawnNowAndThen`.

    Args:
        count: images in each of the two figures.

    Raises:
        InputError: a ``count`` below 1.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise InputError(f"{type(self).__name__}: count={count}: expected at least 1")
        self.count = count
        self._first: list[Row] = []
        self._wrong: list[Row] = []

    @abstractmethod
    def wrong(self, outputs: Any, batch: ImageBatch) -> Tensor | None:
        """Which of a batch are predicted wrongly, ``(B)`` bool; None where this callback has nothing to draw."""

    @abstractmethod
    def row(self, outputs: Any, batch: ImageBatch, n: int) -> Row:
        """What is drawn of image ``n`` of a batch, its tensors on the CPU."""

    @abstractmethod
    def draw(self, rows: Sequence[Row], names: Sequence[str], title: str) -> Figure:
        """A figure of at least one row; ``names`` are those of the classes."""

    def keep(self, trainer: L.Trainer, outputs: Any, batch: ImageBatch) -> None:
        """See `DrawnNowAndThen.keep`."""
        wrong = self.wrong(outputs, batch)
        if wrong is None:
            return
        for rows, candidates in (
            (self._first, torch.arange(len(wrong))),
            (self._wrong, wrong.nonzero()[:, 0].cpu()),
        ):
            rows += [self.row(outputs, batch, n) for n in candidates[: max(self.count - len(rows), 0)].tolist()]

    def draw_kept(self, trainer: L.Trainer, task: L.LightningModule, stage: str, when: str) -> None:
        """See `DrawnNowAndThen.draw_kept`."""
        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        for rows, name, title in (
            (self._first, "reconstructions", "Inputs and reconstructions"),
            (self._wrong, "wrong", "Wrong predictions and their reconstructions"),
        ):
            if rows:
                publish(trainer, f"{stage}/{name}", self.draw(rows, names, f"{title} ({when})"))

    def forget(self) -> None:
        """See `DrawnNowAndThen.forget`."""
        self._first, self._wrong = [], []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep a few images."""
        self.keep(trainer, outputs, batch)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw them."""
        self.end_stage(trainer, pl_module, "predict")
