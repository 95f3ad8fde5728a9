"""The checkpoints of a run: the best on the validation images, and the last."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class RunCheckpoint(ModelCheckpoint):
    """Keeps the best and the last state under ``checkpoints`` in the run's folder.

    Without a validation set nothing is best, and the last epoch's state is kept alone; the test set never selects.

    Args:
        monitor: validation metric that selects.
        mode: whether its maximum or its minimum is best.
        save_top_k: how many of the best to keep.
        dirpath: another folder.
    """

    def __init__(
        self, monitor: str = "val/accuracy", mode: str = "max", save_top_k: int = 1, dirpath: str | None = None
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=f"epoch{{epoch:03d}}_{monitor.split('/')[-1]}{{{monitor}:.4f}}",
            auto_insert_metric_name=False,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_last=True,
        )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the folder, and drop the monitor where nothing is held out."""
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir).absolute() / "checkpoints")
        if stage == "fit" and getattr(getattr(trainer, "datamodule", None), "val_size", None) == 0:
            self.monitor, self.save_top_k = None, 0
        super().setup(trainer, pl_module, stage)

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Whether a state is kept; of equally good ones the latest is."""
        worst = self.best_k_models.get(self.kth_best_model_path)
        return (current is not None and worst is not None and bool(current == worst)) or super().check_monitor_top_k(
            trainer, current
        )
