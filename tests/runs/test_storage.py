"""Runs whose pictures are in memory, in shards or in their files: the same to the last bit, killed or not."""

from pathlib import Path

import pytest
import torch
from forked import ranks, run
from PIL import Image
from program import metrics
from torch.testing import assert_close

from capsule_lightning.data.digits import DigitsDataModule

SMALL = """
data:
  class_path: ImageFolderDataModule
  init_args: {root: digits, image_size: [10, 10], channels: 1, batch_size: 20, val_size: 40}
model:
  init_args:
    net:
      init_args:
        encoder: {init_args: {channels: 8, kernel_size: 3, num_types: 4, primary_kernel_size: 3}}
        decoder: {class_path: DenseDecoder, init_args: {hidden: [16]}}
trainer: {max_epochs: 2, log_every_n_steps: 1, callbacks: [{class_path: RunCheckpoint, init_args: {every_n_steps: 3}}]}
"""
FIT = ("fit", "--config=image_folder", "--config=small.yaml", "--test_after_fit=false", "--experiment=one")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("storage")
    (cwd / "small.yaml").write_text(SMALL)
    images, labels = DigitsDataModule().load("train")
    for number in range(300):
        path = cwd / "digits" / str(int(labels[number])) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number, 0].numpy()).save(path)
    return cwd


def weights(cwd: Path, name: str) -> dict:
    return torch.load(cwd / "runs" / "one" / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_equal(some: dict, others: dict) -> None:
    assert some.keys() == others.keys()
    for name, values in some.items():
        assert_close(values, others[name], rtol=0, atol=0, msg=name)


@pytest.mark.nightly
@pytest.mark.parametrize("processes", [1, 2])
def test_every_storage_trains_to_the_same_weights(processes: int, folder: Path) -> None:
    for stored in ("memory", "shards", "originals"):
        words = (*FIT, f"--data.storage={stored}", f"--run_id={stored}-{processes}")
        done = [run(folder, *words)] if processes == 1 else ranks(folder, processes, *words)
        assert done == [0] * processes, (folder / "output.txt").read_text()[-3000:]
        assert "--data.storage" in (folder / "output.txt").read_text()
    for stored in ("shards", "originals"):
        assert_equal(weights(folder, f"{stored}-{processes}"), weights(folder, f"memory-{processes}"))
    found = metrics(folder / "runs" / "one" / f"shards-{processes}")
    assert found["train/loss"] == metrics(folder / "runs" / "one" / f"memory-{processes}")["train/loss"]


@pytest.mark.nightly
@pytest.mark.parametrize("stored", ["shards", "originals"])
def test_a_run_that_is_killed_in_mid_epoch_goes_on_to_the_same_weights(stored: str, folder: Path) -> None:
    words = (*FIT, f"--data.storage={stored}")
    assert run(folder, *words, f"--run_id=whole-{stored}") == 0
    harm = ("--trainer.callbacks+=harmful.KillRank", "--trainer.callbacks.rank=0", "--trainer.callbacks.steps=[5]")
    killed = (*words, *harm, f"--trainer.callbacks.folder={stored}", f"--run_id=killed-{stored}")
    (folder / stored).mkdir()
    assert run(folder, *killed) == -9
    assert run(folder, "fit", "--resume", f"killed-{stored}") == 0, (folder / "output.txt").read_text()[-3000:]
    assert (folder / stored / "killed-5").exists()
    assert_equal(weights(folder, f"killed-{stored}"), weights(folder, f"whole-{stored}"))
