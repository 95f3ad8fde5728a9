"""Real processes, on the CPU."""

import csv
from pathlib import Path

import pytest
from program import capsule_lightning, metrics


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    words = ("--trainer.max_epochs=3", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1")
    two = ("--trainer.strategy=ddp", "--trainer.devices=2")
    for run_id, more in (("one", ()), ("two", two)):
        done = capsule_lightning(tmp_path, "fit", *words, *more, f"--run_id={run_id}")
        assert done.returncode == 0, done.stderr[-3000:]
    one, both = (metrics(tmp_path / "runs" / "digits" / run_id) for run_id in ("one", "two"))
    assert both["train/loss"] == pytest.approx(one["train/loss"], rel=2e-3)  # sums in another order, over 60 steps
    assert both["train/loss"][:3] == pytest.approx(one["train/loss"][:3], rel=1e-5)
    # the same drift may turn an image or two at the edge between classes
    assert both["test/accuracy"] == pytest.approx(one["test/accuracy"], abs=2 / 360)
    with (tmp_path / "runs" / "digits" / "two" / "confusion.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    assert sum(int(number) for row in rows for number in row[1:]) == 360  # each test image once


def test_a_batch_that_the_processes_do_not_divide(tmp_path: Path) -> None:
    words = ("--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=63")
    done = capsule_lightning(tmp_path, "fit", *words)
    assert done.returncode == 2
    assert "batch_size=63 is the batch of all 2 processes together" in done.stderr


@pytest.mark.parametrize("strategy", ["ddp", "ddp_find_unused_parameters_true"])
def test_parameters_that_the_loss_does_not_reach(strategy: str, tmp_path: Path) -> None:
    # without a decoder nobody reads the poses, and self-routing has activations without them
    net = ("--model.net.routing=SelfRouting", "--model.net.decoder=null", "--trainer.max_epochs=1")
    words = ("--trainer.accelerator=cpu", f"--trainer.strategy={strategy}", "--trainer.devices=2")
    done = capsule_lightning(tmp_path, "fit", *words, *net)
    if strategy == "ddp":
        assert done.returncode == 2
        assert "the loss does not reach 1 parameters of this network, such as net.routing.weight" in done.stderr
    else:
        assert done.returncode == 0, done.stderr[-3000:]
