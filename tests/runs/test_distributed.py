"""Real processes, on the CPU."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import ranks, run
from PIL import Image
from program import capsule_lightning, metrics, torchrun
from resumed import FIT, NOISY, assert_same_end

from capsule_lightning.data.digits import DigitsDataModule

SMALL = """
data: {class_path: ImageFolderDataModule, init_args: {root: digits, image_size: null, channels: 1, batch_size: 60}}
model:
  init_args:
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.003}}
    net:
      init_args:
        encoder: {init_args: {channels: 32, kernel_size: 3, num_types: 8, primary_kernel_size: 3}}
        decoder: {class_path: DenseDecoder, init_args: {hidden: [64]}}
trainer: {max_epochs: 2, log_every_n_steps: 1}
"""
NUM_TEST = 101  # neither 2 nor 4 processes divide them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits as image files, and a small network for them."""
    cwd = tmp_path_factory.mktemp("digits")
    (cwd / "small.yaml").write_text(SMALL)
    for split, count in (("train", 660), ("test", NUM_TEST)):
        images, labels = DigitsDataModule().load(split)
        for number in range(count):
            path = cwd / "digits" / split / str(int(labels[number])) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number, 0].numpy()).save(path)
    return cwd


def under_torchrun(cwd: Path, processes: int, *words: str) -> None:
    done = torchrun(cwd, processes, *words)
    assert done.returncode == 0, done.stderr[-3000:]


def forked_ranks(cwd: Path, processes: int, *words: str) -> None:
    assert ranks(cwd, processes, *words) == [0] * processes, (cwd / "output.txt").read_text()[-3000:]


@pytest.mark.parametrize(
    ("counts", "start"),
    [
        pytest.param((1, 2), forked_ranks, marks=pytest.mark.long(20)),
        pytest.param((1, 2, 4), under_torchrun, marks=pytest.mark.nightly),
    ],
)
def test_one_two_and_four_processes_train_alike(
    counts: tuple[int, ...], start: Callable[..., None], folder: Path
) -> None:
    words = (
        *("fit", "--config=image_folder", "--config=small.yaml", "--config=metrics/clinical.yaml"),
        *(f"--experiment=up-to-{counts[-1]}", "--without=ReconstructionFigures"),
    )
    runs = {}
    assert run(folder, *words, "--run_id=1") == 0
    for processes in counts:
        if processes > 1:
            start(folder, processes, *words, f"--run_id={processes}")
        runs[processes] = folder / "runs" / f"up-to-{counts[-1]}" / str(processes)
        with (runs[processes] / "confusion.csv").open() as file:
            rows = list(csv.reader(file))[1:]
        assert sum(int(number) for row in rows for number in row[1:]) == NUM_TEST  # each test image once
    one = metrics(runs[1])
    assert one["train/loss"][-1] < 0.8 * one["train/loss"][0]
    for processes in counts[1:]:
        many = metrics(runs[processes])
        assert many["train/loss"] == pytest.approx(one["train/loss"], rel=1e-4)  # sums in another order
        assert many["val/loss"] == pytest.approx(one["val/loss"], rel=1e-4)
        assert many["test/loss"] == pytest.approx(one["test/loss"], rel=1e-4)
        assert many["test/accuracy"] == one["test/accuracy"]
        assert many.keys() >= {name for name in one if name.startswith("test/")} >= {"test/auroc", "test/specificity/9"}
        for name in (name for name in one if name.startswith(("val/", "test/"))):
            assert many[name] == pytest.approx(one[name], rel=1e-3, abs=1e-3), name  # scores differ a little
        assert many["lr"] == one["lr"]


@pytest.mark.nightly
def test_a_rank_that_is_killed_twice_under_torchrun(tmp_path: Path) -> None:
    (tmp_path / "noisy.yaml").write_text(NOISY)
    words = (*FIT, "--trainer.max_epochs=3")
    harm = ("--resume", "--trainer.callbacks+=harmful.KillRank", "--trainer.callbacks.steps=[17,42]")
    for name, more, restarts in (("whole", (), 0), ("killed", harm, 2)):
        done = torchrun(tmp_path, 2, *words, *more, f"--runs={name}/runs", restarts=restarts)
        assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.glob("killed-*")} == {"killed-17", "killed-42"}
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.nightly
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_takes_the_others_down(rank: int, tmp_path: Path) -> None:
    two = ("--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu")
    harm = (
        "--trainer.callbacks+=harmful.KillRank",
        "--trainer.callbacks.steps=[12]",
        f"--trainer.callbacks.rank={rank}",
    )
    done = capsule_lightning(tmp_path, "fit", "--run_id=one", *two, *harm)
    assert done.returncode != 0
    assert (tmp_path / "killed-12").exists()
    if rank == 1:
        assert "another process of this run is gone" in done.stderr
        assert "--resume" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.nightly
def test_a_batch_that_the_processes_do_not_divide(tmp_path: Path) -> None:
    words = ("--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=63")
    done = capsule_lightning(tmp_path, "fit", *words)
    assert done.returncode == 2
    assert "batch_size=63 is the batch of all 2 processes together" in done.stderr


@pytest.mark.nightly
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
