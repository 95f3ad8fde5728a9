"""A run of two training steps, for what looks at networks."""

import sys
from pathlib import Path

import pytest

from capsule_lightning.cli import main

LEAN = (
    "--without=[ReconstructionFigures,ConfusionFigure,PredictionTable,PredictionSamples,LearningRateMonitor,"
    "NetworkSummary,Forecast,RunCost,RunProgress,ResultTable]"
)
"""Leave out all that only reports."""
SHORT = (
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.accelerator=cpu",
    LEAN,
    "--test_after_fit=false",
    "--data.batch_size=4",
    "--run_id=one",
)
FAKE_MNIST = ("--config", "mnist.yaml", "--data.fake=true", "--data.val_size=0.2")


def fit(folder: Path, *words: str) -> Path:
    """Two steps of training; gives back the last checkpoint of the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.delenv("CAPSULE_LIGHTNING_RUN_ID", raising=False)
        patch.setattr(sys, "argv", ["capsule_lightning"])
        patch.chdir(folder)
        main(["fit", *words, *SHORT])
    (checkpoint,) = folder.glob("runs/*/one/checkpoints/last.ckpt")
    return checkpoint
