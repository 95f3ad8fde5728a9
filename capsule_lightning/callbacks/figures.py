"""Where the figures of a run go, and when pictures of its images are drawn."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor
from typing_extensions import override

from capsule_lightning.callbacks.informing import Informing, reason, tell
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.errors import require
from capsule_lightning.runs.files import write_whole

Example = TypeVar("Example")


def publish(trainer: L.Trainer, name: str, draw: Callable[[], Figure]) -> None:
    """Write a figure to ``figures/<name>.png`` in the run's folder and to every logger that takes images.

    A trial run of a single batch (``fast_dev_run``) leaves nothing behind. A figure that cannot be drawn or written
    costs a line, and the figure of that name that is there stays.

    Args:
        trainer: the trainer of the run.
        name: name of the figure, such as ``val/reconstructions``.
        draw: returns the finished figure.
    """
    if getattr(trainer, "fast_dev_run", False):
        return
    path = Path(trainer.default_root_dir) / "figures" / f"{name.replace('/', '_')}.png"
    step = max(trainer.global_step - 1, 0)  # that of the metrics
    try:
        figure, image = draw(), io.BytesIO()
        figure.savefig(image, format="png", dpi=110)
        write_whole(path, image.getvalue(), make_folder=True)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(name, figure, step)
            elif hasattr(logger, "log_image"):
                logger.log_image(key=name, images=[str(path)], step=step)
    except Exception as error:
        tell(f"{path}: cannot be drawn ({reason(error)}); training continues without it")


class SparseFigures(Informing, ABC):
    """Keeps a few images of a validation or a test, and draws them at its end.

    In training this happens after epochs 1, 2, 4, 8, ... and the last: often while much changes, and at little cost.
    """

    @abstractmethod
    def keep(self, trainer: L.Trainer, outputs: Any, batch: ImageBatch) -> None:
        """Keep something of a batch."""

    @abstractmethod
    def draw_kept(self, trainer: L.Trainer, task: L.LightningModule, stage: str, when: str) -> None:
        """Publish figures of what was kept, if anything was.

        Args:
            trainer: the trainer of the run.
            task: the task of the run.
            stage: ``val``, ``test`` or ``predict``.
            when: the same for use in a title, with the epoch of a validation.
        """

    @abstractmethod
    def forget(self) -> None:
        """Drop what was kept."""

    def end_stage(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Draw what was kept, unless this is the check before training, and drop it."""
        if not trainer.sanity_checking and trainer.is_global_zero:
            when = f"{stage}, after {trainer.current_epoch + 1} epochs" if stage == "val" else stage
            self.draw_kept(trainer, task, stage, when)
        self.forget()

    @override
    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.keep(trainer, outputs, batch)

    @override
    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.keep(trainer, outputs, batch)

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epochs = trainer.current_epoch + 1
        if trainer.state.fn != TrainerFn.FITTING or epochs.bit_count() == 1 or epochs == trainer.max_epochs:
            self.end_stage(trainer, pl_module, "val")
        else:
            self.forget()

    @override
    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.end_stage(trainer, pl_module, "test")


class PredictedFigures(SparseFigures, ABC):
    """Keeps a few images of a prediction, too."""

    @override
    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.keep(trainer, outputs, batch)

    @override
    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.end_stage(trainer, pl_module, "predict")


class ImageFigures(PredictedFigures, Generic[Example]):
    """Draws, after validation, test and prediction, the first images, and the first that are predicted wrongly.

    See `SparseFigures` for when this happens in training.

    Args:
        count: number of images in each of the two figures.

    Raises:
        InputError: a ``count`` below 1.
    """

    def __init__(self, count: int) -> None:
        require(count >= 1, f"{type(self).__name__}: count={count}: expected at least 1")
        self.count = count
        self._first: list[Example] = []
        self._wrong: list[Example] = []

    @abstractmethod
    def wrong(self, outputs: Any, batch: ImageBatch) -> Tensor | None:
        """Return which images are predicted wrongly, ``(B)`` bool; None if this callback cannot draw the prediction."""

    @abstractmethod
    def row(self, outputs: Any, batch: ImageBatch, n: int) -> Example:
        """Return what is drawn for image ``n`` of a batch, with tensors on the CPU."""

    @abstractmethod
    def draw(self, rows: Sequence[Example], names: Sequence[str], title: str) -> Figure:
        """Return a figure of at least one row; ``names`` are those of the classes."""

    @override
    def keep(self, trainer: L.Trainer, outputs: Any, batch: ImageBatch) -> None:
        wrong = self.wrong(outputs, batch)
        if wrong is None:
            return
        for rows, candidates in (
            (self._first, torch.arange(len(wrong))),
            (self._wrong, wrong.nonzero()[:, 0].cpu()),
        ):
            rows += [self.row(outputs, batch, n) for n in candidates[: max(self.count - len(rows), 0)].tolist()]

    @override
    def draw_kept(self, trainer: L.Trainer, task: L.LightningModule, stage: str, when: str) -> None:
        for rows, name, title in (
            (self._first, "reconstructions", "Inputs and reconstructions"),
            (self._wrong, "wrong", "Wrong predictions and their reconstructions"),
        ):
            if rows:
                names = trainer.datamodule.class_names  # type: ignore[attr-defined]
                publish(trainer, f"{stage}/{name}", partial(self.draw, rows, names, f"{title} ({when})"))

    @override
    def forget(self) -> None:
        self._first, self._wrong = [], []
