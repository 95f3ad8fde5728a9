"""Runs of texts and of relations in real processes: killed and resumed, and shared by two."""

from functools import partial
from pathlib import Path

import pytest
import torch
from forked import ranks, run
from program import metrics
from resumed import die_while_writing, leaves

#: Names of configs, and options that make each a matter of seconds; lengths differ, so that batches are padded.
CONFIGS = {
    "text": ("--data.sources=[yelp]", "--model.net.dim_words=8", "--model.net.filters=4", "--model.net.types=2"),
    "relations": (
        *("--data.size=300", "--model.net.hidden=8", "--model.net.types=2", "--model.net.dim_words=8"),
        "--model.net.dim=4",
    ),
}
FIT = ("--trainer.max_epochs=2", "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu", "--data.batch_size=40")


def words_of(name: str) -> tuple[str, ...]:
    return ("fit", f"--config={name}.yaml", *CONFIGS[name], *FIT)


def run_of(cwd: Path, name: str, run_id: str) -> Path:
    return cwd / "runs" / name / run_id


def told(cwd: Path) -> str:
    return (cwd / "output.txt").read_text()[-3000:]


@pytest.mark.nightly
@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_that_is_killed_while_it_writes_resumes_to_the_same_weights(name: str, tmp_path: Path) -> None:
    words = (*words_of(name), "--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.every_n_steps=2")
    assert run(tmp_path, *words, "--run_id=whole") == 0, told(tmp_path)
    assert run(tmp_path, *words, "--run_id=killed", first=partial(die_while_writing, 4, 0.5)) == -9
    assert run(tmp_path, *words, "--run_id=killed", "--resume") == 0, told(tmp_path)
    killed, whole = (
        torch.load(run_of(tmp_path, name, run_id) / "checkpoints" / "last.ckpt", weights_only=True)
        for run_id in ("killed", "whole")
    )
    assert killed["global_step"] == whole["global_step"] > 8
    for part in ("state_dict", "optimizer_states"):
        mine, theirs = dict(leaves(killed[part])), dict(leaves(whole[part]))
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            assert torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(value)), (part, *key)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_give_the_curve_of_one(name: str, tmp_path: Path) -> None:
    words = (*words_of(name), "--model.net.dropout=0.0")  # processes draw other words to leave out
    assert run(tmp_path, *words, "--run_id=1") == 0, told(tmp_path)
    assert ranks(tmp_path, 2, *words, "--run_id=2") == [0, 0], told(tmp_path)
    one, two = (metrics(run_of(tmp_path, name, run_id)) for run_id in "12")
    assert one.keys() == two.keys()
    assert len(one["train/loss"]) > 8
    for key in ("train/loss", "val/loss", "test/loss"):
        assert two[key] == pytest.approx(one[key], rel=1e-3, abs=1e-5), key
    for key in ("val/accuracy", "test/accuracy"):
        assert two[key] == pytest.approx(one[key], abs=0.02), key  # rounding may decide where classes are even
