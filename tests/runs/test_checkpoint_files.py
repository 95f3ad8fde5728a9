"""Checkpoint files: what is torn, damaged or foreign is named and never trusted; what was good stays good."""

import functools
import os
import pickle
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import run, start, wait_for
from program import Run
from resumed import FIT, NOISY, assert_same_end, die_while_writing, last, steps_logged

from capsule_lightning.callbacks.checkpoint import RunCheckpoint, hard_link
from capsule_lightning.errors import InputError, StoppedError
from capsule_lightning.runs.checkpoint_files import AtomicCheckpoints, newest_checkpoint, require_checkpoint


class Net(torch.nn.Module):
    """Two weights."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(size))


def state(step: int, size: int = 2, **more: object) -> dict:
    """What a training run saves, without what does not matter here."""
    weights = {"weight": torch.full((size,), float(step))}
    return {"state_dict": weights, "optimizer_states": [], "loops": {}, "global_step": step, **more}


def save(folder: Path, name: str, checkpoint: dict) -> Path:
    AtomicCheckpoints().save_checkpoint(checkpoint, folder / name)
    return folder / name


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_torn_file_is_named_and_the_one_before_taken(share: float, tmp_path: Path) -> None:
    good = save(tmp_path, "previous.ckpt", state(10))
    torn = save(tmp_path, "last.ckpt", state(20))
    torn.write_bytes(torn.read_bytes()[: int(share * torn.stat().st_size)])
    with pytest.warns(UserWarning, match=r"skipped .*last.ckpt: cannot be read as a checkpoint"):
        assert newest_checkpoint(tmp_path, Net()) == good


def test_one_wrong_bit_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, "last.ckpt", state(20, size=1000))
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((1000,), 20.0).numpy().tobytes()) + 2000] ^= 1
    path.write_bytes(content)
    assert torch.load(path)["global_step"] == 20  # torch itself sees nothing
    with pytest.raises(InputError, match="is damaged"):
        require_checkpoint(path)


@pytest.mark.parametrize(
    ("foreign", "reason"),
    [
        (state(30, size=3), r"another network: weight has shape \(3,\) in the checkpoint and \(2,\) in this"),
        ({"state_dict": {"weight": torch.zeros(2)}}, "lacks optimizer_states"),
        ({"weights": 1}, "holds no network"),
    ],
)
def test_a_foreign_file_is_named_and_the_one_before_taken(foreign: dict, reason: str, tmp_path: Path) -> None:
    good = save(tmp_path, "epoch001.ckpt", state(10))
    save(tmp_path, "last.ckpt", foreign)
    with pytest.warns(UserWarning, match=reason):
        assert newest_checkpoint(tmp_path, Net()) == good


def test_the_last_is_taken_and_the_best_only_without_it(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, Net()) is None
    for name, step in (("epoch003.ckpt", 30), ("epoch001.ckpt", 10)):
        save(tmp_path, name, state(step))
    assert newest_checkpoint(tmp_path, Net()) == tmp_path / "epoch003.ckpt"
    save(tmp_path, "previous.ckpt", state(20))
    assert newest_checkpoint(tmp_path, Net()) == tmp_path / "previous.ckpt"
    save(tmp_path, "last.ckpt", state(30))
    hard_link(tmp_path / "last.ckpt", tmp_path / "previous.ckpt")
    assert newest_checkpoint(tmp_path, Net()) == tmp_path / "last.ckpt"
    save(tmp_path, "epoch004.ckpt", state(35, gradients_pending=True))
    assert newest_checkpoint(tmp_path, Net()) == tmp_path / "last.ckpt"


def test_never_from_the_beginning_where_something_is_there(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"PK torn")
    with pytest.raises(InputError, match=r"none of them can be used: .*last.ckpt"):
        newest_checkpoint(tmp_path, Net())


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save(state(1, code=Code()), tmp_path / "last.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps(Code()))
    for name in ("last.ckpt", "old.ckpt"):
        with pytest.raises(InputError, match="cannot be read"):
            require_checkpoint(tmp_path / name)
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpoints().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert not (tmp_path / "harm").exists()


def test_a_second_name_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr(os, "link", no_links)
    path = save(tmp_path, "last.ckpt", state(1))
    for step in (1, 2):
        save(tmp_path, "last.ckpt", state(step))
        hard_link(path, tmp_path / "previous.ckpt")
        assert require_checkpoint(tmp_path / "previous.ckpt")["global_step"] == step
    assert {p.name for p in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}


def limit_files(size: int) -> None:
    """No file of this process may grow beyond a size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.nightly
def test_a_file_that_cannot_grow(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "noisy.yaml").write_text(NOISY)
    assert run(tmp_path, *FIT, first=functools.partial(limit_files, 300_000)) == 1
    output = (tmp_path / "output.txt").read_text()
    assert "last.ckpt: cannot be written (File too large)" in output
    assert "Traceback" not in output
    folder = tmp_path / "runs" / "digits" / "one" / "checkpoints"
    assert not list(folder.glob("*")) + list(folder.glob(".*"))
    assert run(tmp_path, *FIT, "--resume") == 0
    assert_same_end(tmp_path, whole)


@pytest.mark.nightly
def test_a_full_disk(tmp_path: Path, whole: Path) -> None:
    disk = tmp_path / "runs"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], check=False)
    if mount.returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        (tmp_path / "noisy.yaml").write_text(NOISY)
        process = start(tmp_path, *FIT)
        wait_for(lambda: steps_logged(tmp_path) >= 26, process)
        os.kill(process.pid, signal.SIGINT)
        process.join()
        (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - 100_000))
        step = last(tmp_path)["global_step"]
        assert run(tmp_path, *FIT, "--resume") == 1
        output = (tmp_path / "output.txt").read_text()
        assert "cannot be written (No space left on device); what was saved before is whole" in output
        assert "Traceback" not in output
        for path in (disk / "digits" / "one" / "checkpoints").iterdir():
            assert require_checkpoint(path)["global_step"] > 0
        assert last(tmp_path)["global_step"] >= step
        (disk / "filler").unlink()
        assert run(tmp_path, *FIT, "--resume") == 0
        assert_same_end(tmp_path, whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_weights_that_are_not_finite_are_not_saved(run_main: Callable[..., Path]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main("fit", "--model.optimizer.lr", "1e30", "--model.lr_scheduler", "null", "--run_id", "one")
    assert stopped.value.code == 1
    for path in Path("runs/digits/one/checkpoints").glob("*.ckpt"):
        weights = torch.load(path)["state_dict"].values()
        assert all(value.isfinite().all() for value in weights)


def test_a_moved_run_goes_on_with_its_best(run_main: Callable[..., Path], trained: Run, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "elsewhere" / "run")
    run_main("fit", "--resume", "elsewhere/run", "--trainer.max_epochs", "5", "--test_after_fit", "false")
    folder = tmp_path / "elsewhere" / "run" / "checkpoints"
    assert len(list(folder.glob("epoch*"))) == 1
    found = torch.load(folder / "last.ckpt", weights_only=True)
    (kept,) = (s for key, s in found["callbacks"].items() if key.startswith("RunCheckpoint"))
    assert Path(kept["best_model_path"]).parent == folder
    assert found["epoch"] == 4


def test_limits_of_the_callback() -> None:
    with pytest.raises(InputError, match="every_n_steps=0"):
        RunCheckpoint(every_n_steps=0)
    with pytest.raises(InputError, match="every_n_minutes=-1"):
        RunCheckpoint(every_n_minutes=-1)


def test_a_state_is_saved_when_its_time_has_come(
    run_main: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    original = RunCheckpoint.save_last_state
    monkeypatch.setattr(
        RunCheckpoint, "save_last_state", lambda self, t: (steps.append(t.global_step), original(self, t))
    )
    text = "trainer: {callbacks: [{class_path: RunCheckpoint, init_args: {every_n_minutes: 0.000001}}]}"
    Path("often.yaml").write_text(text)
    run_main(
        "fit", "--config", "digits", "--config", "often.yaml", "--trainer.max_steps", "5", "--test_after_fit", "false"
    )
    assert steps[:4] == [1, 2, 3, 4]


def test_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoppedError, match="cannot be written"):
        AtomicCheckpoints().save_checkpoint(state(1), tmp_path / "file" / "last.ckpt")


def test_a_run_taken_back_goes_on_from_where_it_was_taken(tmp_path: Path) -> None:
    left_behind = save(tmp_path, "last.ckpt", state(1000))
    save(tmp_path, "epoch009.ckpt", state(900))
    hard_link(left_behind, tmp_path / "previous.ckpt")
    save(tmp_path, "last.ckpt", state(300))
    assert newest_checkpoint(tmp_path, Net()) == tmp_path / "last.ckpt"


@pytest.mark.nightly
def test_a_damaged_last_state_does_not_take_the_place_of_a_good_one(trained: Run, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (folder / "last.ckpt").rename(folder / "previous.ckpt")  # a finished run has kept the last alone
    (folder / "last.ckpt").write_bytes(b"PK torn")
    words = ("fit", "--resume", "run", "--trainer.max_epochs", "5")
    assert run(tmp_path, *words, first=functools.partial(die_while_writing, 1, 0.5)) == -signal.SIGKILL
    assert require_checkpoint(folder / "previous.ckpt")["global_step"] > 0
    assert run(tmp_path, *words, "--test_after_fit", "false") == 0
    assert require_checkpoint(folder / "last.ckpt")["epoch"] == 4


def test_another_run_is_not_overwritten(run_main: Callable[..., Path], trained: Run) -> None:
    shutil.copytree(trained.folder, "runs/digits/taken")
    before = Path("runs/digits/taken/checkpoints/last.ckpt").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        run_main("fit", "--ckpt_path", trained.checkpoint, "--run_id", "taken", "--trainer.max_epochs", "5")
    assert stopped.value.code == 2
    assert Path("runs/digits/taken/checkpoints/last.ckpt").read_bytes() == before
