"""What others have set is used if it is right, and answered in one line if it is not; nothing of it ends a training."""

import io
import os
import sys
import warnings
from pathlib import Path

import pytest
from environment import clean_environment
from forked import run

from capsule_lightning.cli import environment
from capsule_lightning.errors import InputError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "a", "MASTER_ADDR": "here", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
SUBPROCESS = {"MASTER_ADDR": "here", "MASTER_PORT": "1", "NODE_RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
BY_HAND = {"MASTER_ADDR": "here", "MASTER_PORT": "1", "NODE_RANK": "1"}
JOB = {"SLURM_JOB_ID": "5", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_NTASKS": "2"}
SPREAD = {**JOB, "SLURM_NTASKS_PER_NODE": "2"}
ALONE = {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
ONE_TASK = {**JOB, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}


@pytest.mark.parametrize("given", [{}, TORCHRUN, ALONE, SUBPROCESS, BY_HAND, SPREAD, ONE_TASK, {"COLUMNS": "200"}])
def test_what_a_launcher_sets_is_used(given: dict[str, str]) -> None:
    kept = dict(given)
    assert environment.settle(kept) == []
    assert kept == {**given, "MPLBACKEND": "agg"}


@pytest.mark.parametrize(
    "stray",
    [
        {"RANK": "3"},
        {"RANK": ""},
        {"LOCAL_RANK": "1"},
        {"NODE_RANK": "abc"},
        {"WORLD_SIZE": "8"},
        {"RANK": "3", "WORLD_SIZE": "8"},
        {"RANK": "3", "MASTER_ADDR": "here"},
        {"SLURM_PROCID": "3"},
        {"COLUMNS": "abc"},
        {"COLUMNS": "-5"},
        {"COLUMNS": "2"},
        {"MPLBACKEND": "nothing_like_it"},
    ],
    ids=str,
)
def test_what_is_left_over_is_not_used_and_that_is_said(stray: dict[str, str]) -> None:
    kept = dict(stray)
    lines = environment.settle(kept)
    if "MPLBACKEND" not in stray:
        (line,) = lines
        gone = [name for name in stray if name != "MASTER_ADDR"]
        assert all(f"{name}={stray[name]!r}" in line for name in gone)
        assert not set(gone) & set(kept)
    assert kept["MPLBACKEND"] == "agg"


@pytest.mark.parametrize(
    "given",
    [
        {**TORCHRUN, "RANK": "two"},
        {**TORCHRUN, "RANK": "2"},
        {**TORCHRUN, "WORLD_SIZE": "0"},
        {**SUBPROCESS, "LOCAL_RANK": "-1"},
        {**BY_HAND, "NODE_RANK": ""},
        {**SPREAD, "SLURM_PROCID": "x"},
        JOB,
        {"SLURM_RESTART_COUNT": "once"},
        {"PL_GLOBAL_SEED": "abc"},
        {"PL_GLOBAL_SEED": "-1"},
        {"PL_GLOBAL_SEED": str(2**32)},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_by_its_name(given: dict[str, str]) -> None:
    with pytest.raises(InputError) as refused:
        environment.settle(dict(given))
    assert any(f"{name}=" in str(refused.value) for name in given)
    assert str(refused.value).isprintable()


def test_warnings_end_nothing_and_every_character_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, "ascii"))
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (line,) = environment.settle_process()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(warnings, "showwarning", lambda *_: None)
            warnings.warn("of a library", UserWarning, stacklevel=1)
    print("━ é \udce9", flush=True)
    assert "PYTHONWARNINGS" in line
    assert buffer.getvalue().decode() == "\\u2501 \\xe9 \\udce9\n"


def test_a_matplotlibrc_that_cannot_be_read_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def torn(name: str) -> None:
        calls.append(name)
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr(environment, "import_module", torn)
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path))
    (line,) = environment.settle_pictures()
    assert "matplotlibrc" in line
    assert os.environ["MATPLOTLIBRC"] == os.devnull
    assert calls == ["matplotlib"]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "odd",
    [
        {"RANK": "3"},
        {"LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "2"},
        {"MPLBACKEND": "QtAgg"},
        {"COLUMNS": "1"},
        {"PYTHONWARNINGS": "error"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"TERM": "dumb"},
        {"MATPLOTLIBRC": "broken"},
    ],
    ids=str,
)
def test_a_run_has_its_records_whatever_is_left_over(odd: dict[str, str], tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "broken").write_bytes(b"\xff\xfe")
    words = "fit --run_id one --trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.accelerator cpu"
    done = subprocess.run(
        [sys.executable, "-m", "capsule_lightning", *words.split()],
        cwd=tmp_path,
        env={**clean_environment(tmp_path), "WANDB_MODE": "disabled", **odd},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert b"Traceback" not in done.stderr
    folder = tmp_path / "runs" / "digits" / "one"
    assert "test/accuracy" in (folder / "metrics.csv").read_text()
    assert (folder / "figures" / "test_confusion.png").is_file()


@pytest.mark.nightly
def test_a_left_over_rank_of_a_whole_launch_is_refused(tmp_path: Path) -> None:
    words = ("fit", "--run_id", "one", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu")
    assert run(tmp_path, *words, env=SUBPROCESS) == 2
    assert "LOCAL_RANK" in (tmp_path / "output.txt").read_text()
    assert not (tmp_path / "runs").exists()
