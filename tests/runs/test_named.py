"""Which checkpoint a name means."""

import os
from pathlib import Path

import pytest
import torch

from capsule_lightning.errors import InputError
from capsule_lightning.runs.named import checkpoint_named


def state(path: Path, time: int, best: str = "") -> None:
    """A small checkpoint, written at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    callbacks = {"RunCheckpoint": {"best_model_path": str(path.parent / best)}} if best else {}
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": callbacks}, path)
    os.utime(path, (time, time))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs: an old one; the newest; one without a best state."""
    monkeypatch.chdir(tmp_path)
    for run, names in {
        "a/old": ["epoch000_x", "last"],
        "a/new": ["epoch001_x", "epoch002_y", "last"],
        "b/raw": ["last"],
    }.items():
        folder = tmp_path / "runs" / run
        for number, name in enumerate(names):
            best = "epoch001_x.ckpt" if run == "a/new" and name == "last" else ""
            state(folder / "checkpoints" / f"{name}.ckpt", 100 + number + (1000 if run == "a/new" else 0), best)
        (folder / "config.yaml").write_text("{}")
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, "a/new/checkpoints/epoch001_x.ckpt"),  # the one that the last state calls the best
        ("best", "a/new/checkpoints/epoch001_x.ckpt"),
        ("last", "a/new/checkpoints/last.ckpt"),
        ("old", "a/old/checkpoints/epoch000_x.ckpt"),
        ("runs/a/old", "a/old/checkpoints/epoch000_x.ckpt"),
        ("runs/a/old/", "a/old/checkpoints/epoch000_x.ckpt"),
        ("runs/a/old/checkpoints", "a/old/checkpoints/epoch000_x.ckpt"),
        ("raw", "b/raw/checkpoints/last.ckpt"),
        ("runs/a/old/checkpoints/last.ckpt", "a/old/checkpoints/last.ckpt"),
    ],
)
def test_a_file_a_run_or_the_newest_run(name: str | None, expected: str, runs: Path) -> None:
    assert checkpoint_named(name).resolve() == runs / expected


def test_of_one_experiment_the_newest(runs: Path) -> None:
    assert checkpoint_named("last", runs, "b").resolve() == runs / "b/raw/checkpoints/last.ckpt"


def test_a_file_of_that_name_comes_first(runs: Path) -> None:
    Path("best").touch()
    assert checkpoint_named("best") == Path("best")


@pytest.mark.parametrize("name", ["runs/a", "runs", "."])
def test_a_folder_that_is_no_run_is_named(name: str, runs: Path) -> None:
    with pytest.raises(InputError, match="no run"):
        checkpoint_named(name)


@pytest.mark.parametrize("name", [None, "best", "last"])
def test_without_runs_it_is_said_what_to_give(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"ckpt_path=.*no run with a checkpoint"):
        checkpoint_named(name)


def test_a_run_without_a_checkpoint(runs: Path) -> None:
    for path in (runs / "a/old/checkpoints").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"has no checkpoint.*--resume"):
        checkpoint_named("old")
