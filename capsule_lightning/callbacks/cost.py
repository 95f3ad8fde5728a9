"""What a run costs: parameters, images a second, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch


class RunCost(L.Callback):
    """Logs what the table of ``compare`` says of the cost of a run.

    At each start of training, resumed or not: ``parameters``, and ``parameters_without_decoder``, which is what the
    class capsules take. The row also marks the start, so that pauses between starts are no part of the time of a run.
    After each epoch of training: ``images_per_second`` of all processes, validation left out, and
    ``peak_memory_bytes``. On CUDA that is what tensors of this process took at most on its device, on processors the
    largest resident set of the whole process, program and data included: the two do not compare.
    """

    def __init__(self) -> None:
        self._images = 0
        self._seconds = 0.0
        self._since: float | None = None  # when the clock was started; None while it stands

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the parameters; a run that is resumed in mid-epoch has no other start of that epoch."""
        decoder = getattr(getattr(pl_module, "net", None), "decoder", None)
        whole = sum(p.numel() for p in pl_module.parameters())
        drawing = 0 if decoder is None else sum(p.numel() for p in decoder.parameters())
        log(trainer, {"parameters": whole, "parameters_without_decoder": whole - drawing}, trainer.global_step)
        self._begin()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock anew."""
        self._begin()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on after a validation in mid-epoch."""
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count its images."""
        self._images += len(batch[0]) * trainer.world_size

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock until the next training batch."""
        self._stop(pl_module.device)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what the epoch took."""
        self._stop(pl_module.device)
        if self._images:
            found = {
                "images_per_second": self._images / self._seconds,
                "peak_memory_bytes": float(peak_memory(pl_module.device)),
            }
            log(trainer, found, trainer.global_step - 1)

    def _begin(self) -> None:
        self._images, self._seconds, self._since = 0, 0.0, time.perf_counter()

    def _stop(self, device: torch.device) -> None:
        if self._since is None:
            return
        if device.type == "cuda":  # steps are queued there, and only their end is what they took
            torch.cuda.synchronize(device)
        self._seconds += time.perf_counter() - self._since
        self._since = None


def log(trainer: L.Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Give numbers to every logger, which keep those of the first process."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=max(step, 0))


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has taken so far: of a CUDA device for its tensors, else of the machine in all.

    The second is the high water of this program alone: `resource.getrusage` would count the process that started it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
