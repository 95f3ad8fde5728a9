"""Runs of segmentation, detection and pose in real processes: killed and resumed, shared by two, and in bfloat16."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import ranks, run
from one_scale import without_statistics
from PIL import Image
from program import metrics
from resumed import die_while_writing, leaves

SCENES = ("--data.scenes=48", "--data.val_scenes=9", "--data.test_scenes=9")
DATA = {
    "segmentation": (*SCENES, "--data.batch_size=8"),
    "detection": (*SCENES, "--data.batch_size=8", "--data.image_size=32", "--data.min_size=8", "--data.max_size=12"),
    "pose": (
        *("--data.clips=16", "--data.frames=4", "--data.size=24", "--data.batch_size=8"),
        *("--data.val_size=0.125", "--data.test_size=0.125"),
    ),
}
SCORES = {"segmentation": "dice", "detection": "map", "pose": "pixel_error"}


def fit_of(task: str) -> tuple[str, ...]:
    """Two epochs of six steps."""
    return (
        *("fit", f"--config={task}.yaml", *DATA[task]),
        *("--trainer.max_epochs=2", "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu"),
    )


def output(cwd: Path) -> str:
    return (cwd / "output.txt").read_text()[-3000:]


def run_of(cwd: Path, task: str, name: str) -> Path:
    return cwd / "runs" / task / name


@pytest.mark.nightly
@pytest.mark.parametrize("task", DATA)
def test_a_run_that_is_killed_while_it_writes_resumes_to_the_same_weights(task: str, tmp_path: Path) -> None:
    words = (*fit_of(task), "--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.every_n_steps=2")
    assert run(tmp_path, *words, "--run_id=whole") == 0, output(tmp_path)
    harm = partial(die_while_writing, 4, 0.5)
    assert run(tmp_path, *words, "--run_id=killed", first=harm) == -9
    assert run(tmp_path, *words, "--run_id=killed", "--resume") == 0, output(tmp_path)
    killed, whole = (
        torch.load(run_of(tmp_path, task, name) / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("killed", "whole")
    )
    assert killed["global_step"] == whole["global_step"] == 12
    for part in ("state_dict", "optimizer_states"):
        mine, theirs = dict(leaves(killed[part])), dict(leaves(whole[part]))
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            assert torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(value)), (part, *key)


@pytest.mark.nightly
@pytest.mark.parametrize("task", DATA)
def test_two_processes_give_the_curve_of_one(task: str, tmp_path: Path) -> None:
    words = fit_of(task)
    if task == "segmentation":
        words = (*words, "--model.postprocessing=[largest_component]")
    status = run(tmp_path, *words, "--run_id=1", first=without_statistics)
    assert status == 0, output(tmp_path)
    # the pose network has parts without gradient, the presence of its primary capsules
    shared = ("--trainer.strategy=ddp_find_unused_parameters_true", "--run_id=2")
    assert ranks(tmp_path, 2, *words, *shared, first=without_statistics) == [0, 0], output(tmp_path)
    one, two = (metrics(run_of(tmp_path, task, name)) for name in "12")
    assert one.keys() == two.keys()
    score = SCORES[task]
    # an evaluation divides the loss of a batch by its objects, and processes have other batches
    loose = 0.1 if task == "detection" else 1e-3
    for name, most in (("train/loss", 1e-3), ("val/loss", loose), ("test/loss", loose), (f"val/{score}", 1e-3)):
        assert two[name] == pytest.approx(one[name], rel=most, abs=1e-4), name
    assert f"test/{score}" in one
    if task == "segmentation":
        assert {"test/image_dice", "test/dice_largest_component"} <= one.keys()
    for name in (name for name in one if name.startswith("test/") and "hausdorff" not in name and "loss" not in name):
        assert two[name] == pytest.approx(one[name], rel=1e-3, abs=0.02), name  # a pixel may fall to another class


@pytest.mark.nightly
def test_two_processes_divide_by_the_pixels_of_both(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    values = np.zeros((16, 16), dtype=np.uint8)
    values[4:10, 2:8] = 1
    for number in range(24):  # of every second image little counts
        ignored = np.where(np.arange(16)[:, None] < (14 if number % 2 else 0), 255, values).astype(np.uint8)
        Image.fromarray(np.where(values > 0, 200, 9 * number).astype(np.uint8)).save(tmp_path / f"images/{number}.png")
        Image.fromarray(ignored).save(tmp_path / f"masks/{number}.png")
    words = (
        *("fit", "--config=segmentation.yaml", "--data=ImageMaskDataModule", "--data.pictures=images"),
        *("--data.masks=masks", "--data.image_size=16", "--data.batch_size=4", "--data.ignore_index=[255]"),
        *("--model.net=UNet", "--model.net.width=2", "--model.net.depth=2", "--model.net.norm=none"),
        *("--model.loss.scale=null", "--model.loss.class_weights=null", "--trainer.log_every_n_steps=1"),
        *("--trainer.max_epochs=2", "--trainer.accelerator=cpu"),
    )
    assert run(tmp_path, *words, "--run_id=1") == 0, output(tmp_path)
    assert ranks(tmp_path, 2, *words, "--trainer.strategy=ddp", "--run_id=2") == [0, 0], output(tmp_path)
    one, two = (metrics(run_of(tmp_path, "segmentation", name))["train/loss"] for name in "12")
    assert len(one) >= 8
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.nightly
@pytest.mark.parametrize("task", DATA)
def test_bfloat16_trains_beside_float32(task: str, tmp_path: Path) -> None:
    words = (*fit_of(task), "--trainer.max_epochs=4")
    for precision in ("32-true", "bf16-mixed"):
        status = run(tmp_path, *words, f"--trainer.precision={precision}", f"--run_id={precision}")
        assert status == 0, output(tmp_path)
    exact, rough = (metrics(run_of(tmp_path, task, name))["train/loss"] for name in ("32-true", "bf16-mixed"))
    assert len(exact) == len(rough) == 24
    assert exact != rough  # so that the precision was not left out
    assert rough[0] == pytest.approx(exact[0], rel=0.02)  # 8 bits of each number
    assert rough == pytest.approx(exact, rel=0.15)
