"""The last lines of a training run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.runs.results import from_here
from capsule_lightning.shipped import PROGRAM


@rank_zero_only
def say_where(trainer: L.Trainer, checkpoint: str, folder: Path, tested: bool) -> None:
    """Print what came out of a run, where it is, and what can be done with it.

    Args:
        trainer: of the run.
        checkpoint: the best one; empty if there is none.
        folder: of the run.
        tested: whether the run ended with a test of its result.
    """
    accuracy, program = trainer.callback_metrics.get("test/accuracy"), f"python -m {PROGRAM}"
    lines = {"run": from_here(folder)}
    if tested and accuracy is not None:
        lines["accuracy"] = f"{100 * float(accuracy):.2f} % on the test set"
    if (folder / "figures").is_dir():
        lines["pictures"] = from_here(folder / "figures")
    if checkpoint:
        data = getattr(trainer, "datamodule", None)
        reports = tested and isinstance(data, ImageDataModule) and data.num_labels == 1
        lines["checkpoint"], command = from_here(Path(checkpoint)), "report" if reports else "test"
        lines[f"{command} it"] = f"{program} {command} --ckpt_path {shlex.quote(from_here(Path(checkpoint)))}"
        epochs = trainer.max_epochs
        more = f" --trainer.max_epochs {2 * epochs}" if epochs and epochs > 0 else ""
        lines["go on"] = f"{program} fit --resume {shlex.quote(from_here(folder))}{more}"
    print("\n" + "\n".join(f"{name + ':':<12}{text}" for name, text in lines.items()), file=sys.stdout, flush=True)
