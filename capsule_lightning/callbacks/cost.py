"""What a run costs: parameters, images per second, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from typing_extensions import override

from capsule_lightning.callbacks.informing import Informing


class RunCost(Informing):
    """Log what the table of ``compare`` reports as the cost of a run.

    At each start of training, resumed or not, it logs ``parameters``, and ``parameters_without_decoder``, those that
    the class capsules need. These rows also mark the start, so that pauses between starts do not count as time of the
    run. After each epoch of training it logs ``images_per_second`` of all processes, without validation, and
    ``peak_memory_bytes``. On CUDA that is the most that tensors of this process took on its device, on processors the
    largest resident set of the whole process, program and data included: the two cannot be compared.
    """

    def __init__(self) -> None:
        self._images = 0
        self._seconds = 0.0
        self._since: float | None = None  # when the clock was started; None while it is stopped

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the parameters, and start the clock: a run resumed in the middle of an epoch has no other start of it."""
        decoder = getattr(getattr(pl_module, "net", None), "decoder", None)
        whole = sum(p.numel() for p in pl_module.parameters())
        drawing = 0 if decoder is None else sum(p.numel() for p in decoder.parameters())
        log(trainer, {"parameters": whole, "parameters_without_decoder": whole - drawing}, trainer.global_step)
        self._begin()

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock again at 0."""
        self._begin()

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restart the clock after a validation in the middle of an epoch."""
        if self._since is None:
            self._since = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of the batch."""
        self._images += len(batch[0]) * trainer.world_size

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock until the next training batch."""
        self._stop(pl_module.device)

    @override
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
    """Log numbers to all loggers, which keep those of the first process."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=max(step, 0))


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has taken so far: of a CUDA device for its tensors, else of the machine.

    The second is the high-water mark of this program alone: `resource.getrusage` would count the process that started
    it.
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
