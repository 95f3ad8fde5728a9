"""Balanced sampling, weights, mixed images, folds: the same on two processes but for rounding; resumed to the bit."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from forked import ranks, run
from PIL import Image
from program import metrics
from resumed import leaves

from capsule_lightning.data.digits import DigitsDataModule

pytestmark = pytest.mark.nightly

SMALL = """
data: {init_args: {image_size: null, channels: 1, batch_size: 60, val_size: 60}}
model:
  init_args:
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.003}}
    net:
      init_args:
        encoder: {init_args: {channels: 32, kernel_size: 3, num_types: 8, primary_kernel_size: 3}}
        decoder: {class_path: DenseDecoder, init_args: {hidden: [64]}}
trainer: {max_epochs: 3, log_every_n_steps: 1, accelerator: cpu}
"""
CHAIN = (
    "--data.augmentation=Chain",
    "--data.augmentation.steps=[{class_path: Shift, init_args: {pixels: 1}}, {class_path: MixUp}]",
)
WAYS = {
    "balanced": ("--data.balanced=true",),
    "class-weights": ("--model.loss=MarginLoss", "--model.loss.class_weights=balanced"),
    "example-weights": ("--data.table=weighted.csv",),
    "folds": ("--data.folds=5", "--data.fold=2", "--data.group_column=patient"),
    "mixup": CHAIN,
    "cutmix-of-all": (
        "--data.augmentation=CutMix",
        "--data.balanced=true",
        "--data.table=weighted.csv",
        "--model.loss=MarginLoss",
        "--model.loss.focal_gamma=2",
    ),
    "label-sets": ("--data.table=sets.csv", "--data.label_separator=|", "--model=LabelSetTask", *CHAIN),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as image files, unevenly many of each, listed in tables, and a small network for them."""
    cwd = tmp_path_factory.mktemp("uneven")
    (cwd / "small.yaml").write_text(SMALL)
    images, labels = DigitsDataModule().load("train")
    kept = [number for number, label in enumerate(labels.tolist()) if number % 10 < 10 - label // 2][:700]
    rows = []
    for place, number in enumerate(kept):
        Image.fromarray(images[number, 0].numpy()).save(cwd / f"{place}.png")
        rows.append((place, int(labels[number])))
    header = "path,label,patient"
    lines = {
        "labels.csv": [header, *(f"{n}.png,{label},{n // 3}" for n, label in rows)],
        "weighted.csv": [f"{header},weight", *(f"{n}.png,{label},{n // 3},{(n * 7 % 5) / 2}" for n, label in rows)],
        "sets.csv": [header, *(f"{n}.png,{'|'.join(sets_of(label))},{n // 3}" for n, label in rows)],
    }
    for name, text in lines.items():
        (cwd / name).write_text("\n".join(text))
    return cwd


def sets_of(digit: int) -> Iterable[str]:
    """Whether a digit is even, above five, and divisible by three; 1 and 5 are none of these."""
    return [name for name, here in (("even", digit % 2 == 0), ("large", digit > 5), ("three", digit % 3 == 0)) if here]


def words(way: str, run_id: str) -> tuple[str, ...]:
    more = WAYS[way]
    table = () if any(word.startswith("--data.table") for word in more) else ("--data.table=labels.csv",)
    start = ("fit", "--config=table", "--config=small.yaml", f"--experiment={way}", f"--run_id={run_id}")
    return (*start, *table, *more)


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_as_one_does(way: str, folder: Path) -> None:
    double = "--trainer.callbacks+=doubled.Double"
    assert run(folder, *words(way, "1"), double) == 0, (folder / "output.txt").read_text()[-3000:]
    assert ranks(folder, 2, *words(way, "2"), double) == [0, 0], (folder / "output.txt").read_text()[-3000:]
    one, two = (metrics(folder / "runs" / way / name) for name in ("1", "2"))
    assert one.keys() == two.keys()
    for name in ("train/loss", "val/loss", "test/loss", "train/accuracy"):
        assert two[name] == pytest.approx(one[name], rel=1e-6), name  # logged in float32
    assert one["train/loss"][-1] < one["train/loss"][0]
    mine, theirs = (weights_of(folder / "runs" / way / name) for name in ("1", "2"))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=1e-13)  # only gradients are added in another order


def weights_of(run_folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if value.is_floating_point()}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_killed_in_mid_epoch_goes_on_as_if_it_had_not(way: str, folder: Path, tmp_path: Path) -> None:
    every = ("--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.every_n_steps=5", "--test_after_fit=false")
    for place in ("whole", "stopped"):
        (tmp_path / place).mkdir()
        for path in (folder / "small.yaml", *folder.glob("*.csv")):
            shutil.copy(path, tmp_path / place)
    rooted = (*every, f"--data.root={folder}")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(whole, *words(way, "one"), *rooted) == 0, (whole / "output.txt").read_text()[-3000:]
    harm = ("--trainer.callbacks+=harmful.KillRank", "--trainer.callbacks.steps=[13]", "--trainer.callbacks.rank=0")
    assert run(stopped, *words(way, "one"), *rooted, *harm) != 0
    assert (stopped / "killed-13").exists()  # in the second epoch, three steps after the last checkpoint
    assert run(stopped, "fit", f"--resume=runs/{way}/one", "--trust_run") == 0, (stopped / "output.txt").read_text()[
        -3000:
    ]
    ends = [
        torch.load(place / "runs" / way / "one" / "checkpoints" / "last.ckpt", weights_only=True)
        for place in (whole, stopped)
    ]
    assert ends[0]["global_step"] == ends[1]["global_step"] > 13
    for part in ("state_dict", "optimizer_states"):
        mine, theirs = (dict(leaves(end[part])) for end in ends)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(value)) for key, value in theirs.items())
