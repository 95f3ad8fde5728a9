"""Metrics of a run: named on the command line, written to its files, shown, and what selects its best state."""

import lightning as L
import pytest
import torch
from program import TINY, metrics

from capsule_lightning.callbacks.checkpoint import RunCheckpoint, best_of
from capsule_lightning.cli.configs import resolve
from capsule_lightning.components.build import build
from capsule_lightning.metrics.accuracy import Accuracy
from capsule_lightning.metrics.classes import ClassMetrics


def task_of(*words):
    return build(resolve(["fit", "--config=digits.yaml", *TINY, *words])).task


@pytest.mark.long(8)
def test_a_run_selects_by_a_metric_that_was_named(run_main, capsys):
    chosen = ("--model.metrics=ClassMetrics", "--model.metrics.names=[macro_f1,brier,sensitivity]")
    monitor = ("--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.monitor=val/brier")
    cwd = run_main("fit", *TINY, *chosen, *monitor, "--trainer.max_epochs=3", "--run_id=one")
    folder, output = cwd / "runs/digits/one", capsys.readouterr().out
    values = metrics(folder)
    assert len(values["val/macro_f1"]) == len(values["val/brier"]) == 3
    (best,) = (folder / "checkpoints").glob("epoch*.ckpt")
    assert best.stem.endswith(f"brier{min(values['val/brier']):.4f}")
    for digit in range(10):
        assert values[f"test/sensitivity/{digit}"] == pytest.approx(values[f"test/class_accuracy/{digit}"], rel=1e-6)
        assert f"val/sensitivity/{digit}" not in values
    assert not any("specificity" in name for name in values)
    assert "macro f1" in output
    assert "sensitivity" not in output
    state = torch.load(best, weights_only=True)["state_dict"]
    assert state.keys() == task_of().state_dict().keys()


def test_the_command_line_and_the_config_fill_the_slot():
    assert isinstance(task_of().measured, Accuracy)
    named = task_of("--model.metrics=ClassMetrics", "--model.metrics.names=[auroc,specificity]")
    assert list(named.metrics("val")) == ["accuracy", "auroc"]
    clinical = task_of("--config=metrics/clinical.yaml")
    assert list(clinical.metrics("test")) == list(ClassMetrics(10).make())
    assert clinical.measured.names == ClassMetrics(10).names


@pytest.mark.parametrize(
    ("monitor", "best"),
    [
        ("val/accuracy", "max"),
        ("val/quadratic_kappa", "max"),
        ("val/calibration_error", "min"),
        ("val/class_loss", "min"),
        ("train/loss", "min"),
        ("val/of_someone_else", "max"),
    ],
)
def test_a_metric_says_which_of_its_values_is_best(monitor, best, tmp_path):
    task = task_of("--config=metrics/clinical.yaml")
    assert best_of(task, monitor) == best
    trainer = L.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False)
    for mode in (None, "max", "min"):
        checkpoint = RunCheckpoint(monitor, mode)
        checkpoint.setup(trainer, task, "fit")
        assert (checkpoint.monitor, checkpoint.mode) == (monitor, mode or best)
        assert checkpoint.kth_value == {"max": -torch.inf, "min": torch.inf}[checkpoint.mode]
