"""The table of a test's results."""

import re

import pytest
from program import TINY
from tiers import nightly_but

from capsule_lightning.analysis.intervals import wilson_interval
from capsule_lightning.callbacks.results import rows

SMALL = (*TINY, "--trainer.max_epochs=1", "--run_id=one")


@pytest.mark.parametrize("command", nightly_but(["test"], ["test", "validate"]))
def test_accuracy_and_error_come_first_and_single_classes_only_in_the_file(command, run_main, capsys):
    cwd = run_main("fit", *SMALL, "--test_after_fit=false")
    capsys.readouterr()
    run_main(command, f"--ckpt_path={cwd}/runs/digits/one/checkpoints/last.ckpt")
    output, stage = capsys.readouterr().out, {"test": "test", "validate": "val"}[command]
    values = {}
    for line in (cwd / "runs/digits/one" / command / "metrics.csv").read_text().splitlines()[1:]:
        _, _, metric, value = line.split(",")
        values[metric] = float(value)
    accuracy = values[f"{stage}/accuracy"]
    shown = re.compile(r"  +[\d.]+( %( \(\d+ of 360, 95 % interval [\d.]+ to [\d.]+\))?)?\s*$")
    lines = [re.split(r"  +", line.strip()) for line in output.splitlines() if shown.search(line)]
    right = round(360 * accuracy)
    low, high = (100 * bound for bound in wilson_interval(right, 360))
    counted = f" ({right} of 360, 95 % interval {low:.2f} to {high:.2f})" if command == "test" else ""
    assert lines == [
        ["accuracy", f"{100 * accuracy:.2f} %{counted}"],
        ["error", f"{100 * (1 - accuracy):.2f} %"],
        ["loss", f"{values[f'{stage}/loss']:.4f}"],
        ["class loss", f"{values[f'{stage}/class_loss']:.4f}"],
        ["reconstruction loss", f"{values[f'{stage}/reconstruction_loss']:.4f}"],
    ]
    assert "class_accuracy" not in output
    assert ("each class: runs/digits/one/test/metrics.csv" in output) == (command == "test")
    assert any(name.startswith("test/class_accuracy/") for name in values) == (command == "test")


@pytest.mark.nightly
def test_without_the_table_the_trainer_prints_its_own(run_main, capsys):
    run_main("fit", *SMALL, "--without=ResultTable")
    assert "test/class_accuracy/0" in capsys.readouterr().out


def test_a_validation_within_training_prints_no_table(run_main, capsys):
    run_main("fit", *SMALL, "--test_after_fit=false")
    assert "Result" not in capsys.readouterr().out


def test_other_metrics_stand_between_accuracies_and_losses():
    found = rows({"test/loss": 0.5, "test/overlap": 0.25, "test/digit_accuracy": 0.5, "test/tiny_loss": 1e-7})
    assert found == [
        ("digit accuracy", "50.00 %"),
        ("digit error", "50.00 %"),
        ("overlap", "0.2500"),
        ("loss", "0.5000"),
        ("tiny loss", "1.000e-07"),
    ]
