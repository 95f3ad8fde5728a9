"""W&B's core process is found and ended, and W&B prints only what is asked for."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from forked import run
from tiers import nightly_but

from capsule_lightning.loggers import wandb_service
from capsule_lightning.loggers.wandb_service import Process, core, core_ended_after, processes

FIT = (
    *("fit", "--config=digits", "--model.net.encoder.channels=4", "--model.net.encoder.num_types=2"),
    *("--model.net.decoder=null", "--trainer.accelerator=cpu", "--trainer.limit_train_batches=2"),
    *("--trainer.limit_test_batches=1", "--trainer.max_epochs=1", "--run_id=one"),
)


def child(name: str, folder: Path) -> subprocess.Popen[bytes]:
    """A process of some name that does nothing."""
    program = folder / name
    program.symlink_to("/bin/sleep")
    return subprocess.Popen([program, "100"])


def test_the_core_is_the_living_child_of_that_name(tmp_path: Path) -> None:
    before = core()
    other, mine = child("wandb-other", tmp_path), child("wandb-core", tmp_path)
    try:
        if before is None:  # else another test's core is there too
            assert core() == mine.pid
            with core_ended_after(0.05):
                mine.wait(timeout=60)
            assert core() is None
        assert other.poll() is None
    finally:
        for process in (other, mine):
            process.kill()
            process.wait()


def test_a_core_that_has_ended_is_not_found_before_it_is_waited_for(tmp_path: Path) -> None:
    before, mine = core(), child("wandb-core", tmp_path)
    mine.kill()
    end = time.monotonic() + 60
    while core() == mine.pid and time.monotonic() < end:
        time.sleep(0.01)
    assert core() == before
    mine.wait()


def test_a_block_that_ends_in_time_ends_nothing(tmp_path: Path) -> None:
    mine = child("wandb-core", tmp_path)
    with core_ended_after(0.2):
        pass
    time.sleep(0.5)
    assert mine.poll() is None
    mine.kill()
    mine.wait()


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are listed by ps alone")
def test_ps_lists_the_same_processes_as_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = child("wandb-core", tmp_path)
    try:
        expected = Process(mine.pid, os.getpid(), "S", "wandb-core")
        assert expected in processes()
        monkeypatch.setattr(wandb_service, "Path", lambda path: tmp_path if path == "/proc" else Path(path))
        assert expected in processes()
    finally:
        mine.kill()
        mine.wait()


@pytest.mark.parametrize("asked", nightly_but([False], [False, True]))
def test_an_offline_run_ends_with_our_own_words_unless_wandb_is_asked(asked: bool, tmp_path: Path) -> None:
    quiet = {"WANDB_QUIET": "false"} if asked else {}
    assert run(tmp_path, *FIT, env={"WANDB_MODE": "online", "NETRC": str(tmp_path / "netrc"), **quiet}) == 0
    output = (tmp_path / "output.txt").read_text().rstrip()
    assert output.splitlines()[-1].startswith("go on:      python -m capsule_lightning fit --resume runs/digits/one")
    assert ("wandb:" in output) == ("Run history:" in output) == asked
    assert list((tmp_path / "runs/digits/one/wandb").glob("offline-run-*-digits-one/run-digits-one.wandb"))


@pytest.mark.nightly
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_run_that_is_told_to_stay_offline_says_where_it_is(mode: str, tmp_path: Path) -> None:
    offline = "true" if mode == "online" else "false"
    logger = f"--trainer.logger=[{{class_path: GuardedWandbLogger, init_args: {{offline: {offline}}}}}]"
    assert run(tmp_path, *FIT, logger, env={"WANDB_MODE": mode}) == 0
    assert list((tmp_path / "runs/digits/one/wandb").glob("offline-run-*-digits-one"))
    output = (tmp_path / "output.txt").read_text()
    assert output.count("W&B:") == 1
    assert "\n  wandb sync runs/digits/one/wandb/offline-run-*\n" in output
