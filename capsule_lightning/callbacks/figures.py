"""Where a figure of a run goes: its folder, and the loggers that take images."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from matplotlib.figure import Figure


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
            log_image(key=name, images=[str(path)], step=trainer.global_step)
