"""Runs of segmentation in real processes: killed and resumed, and shared by two."""

from functools import partial
from pathlib import Path

import pytest
import torch
from forked import ranks, run
from program import metrics
from resumed import die_while_writing, leaves

FIT = (
    *("fit", "--config=segmentation.yaml", "--data.scenes=48", "--data.val_scenes=9", "--data.test_scenes=9"),
    *("--trainer.max_epochs=2", "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu"),
)


def run_of(cwd: Path, name: str) -> Path:
    return cwd / "runs" / "segmentation" / name


@pytest.mark.nightly
def test_a_run_that_is_killed_while_it_writes_resumes_to_the_same_weights(tmp_path: Path) -> None:
    often = ("--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.every_n_steps=2")
    assert run(tmp_path, *FIT, *often, "--run_id=whole") == 0, (tmp_path / "output.txt").read_text()[-3000:]
    harm = partial(die_while_writing, 4, 0.5)
    assert run(tmp_path, *FIT, *often, "--run_id=killed", first=harm) == -9
    assert run(tmp_path, *FIT, *often, "--run_id=killed", "--resume") == 0, (tmp_path / "output.txt").read_text()[
        -3000:
    ]
    killed, whole = (
        torch.load(run_of(tmp_path, name) / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("killed", "whole")
    )
    assert killed["global_step"] == whole["global_step"] == 12
    for part in ("state_dict", "optimizer_states"):
        mine, theirs = dict(leaves(killed[part])), dict(leaves(whole[part]))
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            assert torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(value)), (part, *key)


@pytest.mark.nightly
def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    words = (*FIT, "--model.postprocessing=[largest_component]")
    assert run(tmp_path, *words, "--run_id=1") == 0, (tmp_path / "output.txt").read_text()[-3000:]
    assert ranks(tmp_path, 2, *words, "--run_id=2") == [0, 0], (tmp_path / "output.txt").read_text()[-3000:]
    one, two = (metrics(run_of(tmp_path, name)) for name in "12")
    for name in ("train/loss", "val/loss", "val/dice", "test/loss"):
        assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), name
    assert {"test/dice", "test/image_dice", "test/dice_largest_component"} <= one.keys() == two.keys()
    for name in (name for name in one if name.startswith("test/") and "hausdorff" not in name):
        assert two[name] == pytest.approx(one[name], abs=0.02), name  # a pixel may fall to another class by rounding
