"""W&B can neither end, nor delay, nor lose a run: real W&B, real sockets, injected failures."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from forked import start, wait_for
from PIL import Image
from program import metrics
from tiers import nightly_but
from wandb_log import WANDB, config, history, parts, records, steps, table
from wandb_server import WandbServer

import capsule_lightning.loggers.wandb as guard
from capsule_lightning.loggers import wandb_service
from capsule_lightning.loggers.base import Placement
from capsule_lightning.loggers.wandb import GuardedWandbLogger, finish

REFUSES = "http://127.0.0.1:9"
HANGS_SECONDS = 200


@pytest.fixture(autouse=True)
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Nobody has logged in here; call it with an address to have a key for that. A test that hangs fails."""
    for name in list(os.environ):
        if name.startswith("WANDB"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def use(url: str) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", url)

    def hangs(*_: object) -> None:
        pytest.fail(f"still waiting after {HANGS_SECONDS} s")

    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANGS_SECONDS)
    guard.abandon()  # what other tests have left has another account
    yield use
    finish(0)
    guard.abandon()
    signal.alarm(0)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said to the user."""
    lines: list[str] = []
    monkeypatch.setattr(guard, "rank_zero_info", lines.append)
    monkeypatch.setattr(guard, "rank_zero_warn", lines.append)
    return lines


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., GuardedWandbLogger]:
    """A logger of the run ``run`` in the folder of that name, which waits so many seconds for a server."""
    config = {"experiment": "trial", "seed_everything": 7, "data": "MyDataModule", "model.net": "Net"}

    def logger(patience: float = 60.0) -> GuardedWandbLogger:
        logger = GuardedWandbLogger(init_timeout=patience, finish_timeout=2.0, tags=["a"], job_type="b", notes="c")
        logger.place(Placement(tmp_path / "run", tmp_path / "run", "fit", config))
        logger.log_hyperparams({"model.lr": 0.1})
        return logger

    return logger


def log(logger: GuardedWandbLogger, *rows: int) -> None:
    """As Lightning does: several calls a step."""
    for step in rows:
        logger.log_metrics({"lr": 1.0 + step}, step=step)
        logger.log_metrics({"loss": 2.0 + step}, step=step)


def core_of(process: int) -> int:
    """The id of the core process that W&B has started."""
    # By its bare name: arguments would be cut at the terminal's width, wherever the environment lies deep.
    listed = subprocess.run(
        ["ps", "--ppid", str(process), "-o", "pid=,stat=,comm="], capture_output=True, text=True, check=True
    ).stdout
    children = [line.split(maxsplit=2) for line in listed.splitlines()]
    (found,) = [int(child) for child, state, name in children if name == "wandb-core" and state[0] != "Z"]
    return found


def signal_core(number: signal.Signals) -> None:
    """Once the core has written what it has."""
    time.sleep(guard.FLUSH_SECONDS + 0.5)
    os.kill(core_of(os.getpid()), number)
    time.sleep(0.3)


def sync(line: str, url: str) -> None:
    """As a line says that the logger has printed."""
    _, command = line.split("upload later with:\n  wandb ")
    account = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": url}
    done = subprocess.run(
        f"{WANDB} {command}",
        shell=True,  # which reads the star
        env={**os.environ, **account},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANGS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("failure", nightly_but(["no key", "silent"], ["no key", "refuses", "silent", "401", "500"]))
def test_a_run_that_cannot_begin_online_is_whole_offline(
    failure: str,
    account: Callable[[str], None],
    begin: Callable[..., GuardedWandbLogger],
    said: list[str],
    tmp_path: Path,
) -> None:
    status = int(failure) if failure.isdigit() else 200
    with WandbServer(status=status, silent=failure == "silent") as server:
        if failure != "no key":
            account(REFUSES if failure == "refuses" else server.url)
        logger = begin(patience=1.0)
        log(logger, 0, 1, 2)
        assert (logger.version, logger.save_dir) == ("trial-run", str(tmp_path / "run"))
        finish(0)
    (line,) = said
    assert line.endswith(f"wandb sync {tmp_path / 'run' / 'wandb' / 'offline-run-*'}")
    assert ("wandb login" in line) == (failure == "no key")
    (part,) = (part for part in parts(tmp_path / "run") if part.name.startswith("offline"))
    (run,) = records(part, "run")
    assert (run["run_id"], run["run_group"], run["display_name"]) == ("trial-run", "trial-Net", "Net-seed7")
    assert (run["project"], run["job_type"], run["notes"], run["tags"]) == ("capsule_lightning", "b", "c", ["a"])
    assert config(part) == {"model.lr": 0.1}
    assert [(row["_step"], row["trainer/global_step"], row["lr"], row["loss"]) for row in history(part)] == [
        (step, step, 1.0 + step, 2.0 + step) for step in range(3)
    ]
    assert [record["exit_code"] for record in records(part, "exit")] == [0]


def test_a_killed_core_is_followed_by_an_offline_part(
    account: Callable[[str], None], begin: Callable[..., GuardedWandbLogger], said: list[str], tmp_path: Path
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "figure.png")
    with WandbServer() as server:
        account(server.url)
        logger = begin()
        log(logger, *range(10))
        signal_core(signal.SIGKILL)
        logger.log_image("figure", [str(tmp_path / "figure.png")], step=10)
        log(logger, *range(10, 15))
        finish(0)
    first, second = parts(tmp_path / "run")
    assert (first.name.startswith("offline"), second.name.startswith("offline")) == (False, True)
    assert steps(first) == list(range(9))  # W&B keeps a row back until the next one begins
    assert steps(second) == list(range(10, 15))
    assert "figure.filenames" in history(second)[0]
    assert config(second) == {"model.lr": 0.1}
    (line,) = said
    assert line.endswith(f"wandb sync --include-online {first} {second}")
    with WandbServer() as server:
        sync(line, server.url)
        assert [row["_step"] for row in server.runs["trial-run"].history] == [*range(9), *range(10, 15)]


@pytest.mark.nightly
def test_a_core_that_always_dies_is_left_alone(
    begin: Callable[..., GuardedWandbLogger], said: list[str], tmp_path: Path
) -> None:
    logger = begin()
    for step in range(guard.BEGINNINGS):
        log(logger, step)
        os.kill(core_of(os.getpid()), signal.SIGKILL)
        time.sleep(0.3)
    log(logger, guard.BEGINNINGS)
    logger.log_hyperparams({"a": 1})
    logger.log_image("figure", [])
    logger.log_table("table", columns=["a"], data=[[1]])
    logger.finalize("success")
    finish(0)
    assert "training continues without it" in said[-1]
    assert said[-1].endswith(f"wandb sync {parts(tmp_path / 'run')[-1]}")
    assert len(said) == guard.BEGINNINGS + 1


def test_a_w_and_b_that_cannot_be_imported_is_left_alone(
    begin: Callable[..., GuardedWandbLogger], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    logger = begin()
    log(logger, 0, 1)
    logger.log_image("figure", [])
    logger.log_table("table", columns=["a"], data=[[1]])
    logger.finalize("success")
    finish(0)
    (line,) = said
    assert "training continues without it" in line


def test_pictures_in_a_table_cost_nothing_where_wandb_is_disabled(
    begin: Callable[..., GuardedWandbLogger], monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("wandb.Image", lambda *_: pytest.fail("a picture was made"))
    begin().log_table("table", columns=["a"], data=[[np.zeros((8, 8), np.uint8)]])
    finish(0)
    assert said == []


@pytest.mark.nightly
def test_a_table_survives_its_core(
    begin: Callable[..., GuardedWandbLogger], said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logger = begin()
    log(logger, 0, 1)
    signal_core(signal.SIGKILL)
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    logger.log_table("table", columns=["n", "picture"], data=[[7, np.full((8, 9), 3, np.uint8)]], step=1)
    finish(0)
    _, second = parts(tmp_path / "run")
    ((number, path),) = (tuple(row.values()) for row in table(second, "table"))
    assert (number, path.is_relative_to(second)) == (7, True)
    with Image.open(path) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((9, 8), 3)
    assert "WANDB_DATA_DIR" not in os.environ


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_end_is_reached_without_a_core(
    number: signal.Signals,
    begin: Callable[..., GuardedWandbLogger],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    logger = begin()
    log(logger, *range(3))
    signal_core(number)
    monkeypatch.setattr(wandb_service, "PATIENCE", 0.5)
    finish(0)
    (part,) = parts(tmp_path / "run")
    assert said[-1].endswith(f"wandb sync {part}")
    assert steps(part) == [0, 1]


@pytest.mark.nightly
def test_a_core_that_hangs_does_not_hold_up_training(
    begin: Callable[..., GuardedWandbLogger], said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logger = begin()
    log(logger, 0, 1)
    signal_core(signal.SIGSTOP)
    monkeypatch.setattr(wandb_service, "PATIENCE", 1.0)
    for step in range(2, 60):  # until nothing more fits into the socket
        logger.log_metrics({"loss": 1.0, "text": "x" * 50_000}, step=step)
    finish(0)
    assert "core process has died" in said[-1]
    first, second = parts(tmp_path / "run")
    assert steps(first) == [0]
    assert steps(second)[-1] == 59


@pytest.mark.nightly
def test_a_server_that_goes_away_takes_nothing_along(
    account: Callable[[str], None], begin: Callable[..., GuardedWandbLogger], said: list[str], tmp_path: Path
) -> None:
    with WandbServer() as server:
        account(server.url)
        log(begin(), *range(5))
    finish(0)
    (part,) = parts(tmp_path / "run")
    (line,) = said
    assert line.endswith(f"All of it is on disk; upload later with:\n  wandb sync --include-online {part}")
    guard.abandon()
    assert steps(part) == list(range(5))
    with WandbServer() as server:
        sync(line, server.url)
        run = server.runs["trial-run"]
        assert ([row["_step"] for row in run.history], run.exit_code) == (list(range(5)), 0)
        assert (run.fields["groupName"], run.fields["displayName"]) == ("trial-Net", "Net-seed7")


def test_a_call_that_w_and_b_refuses_is_one_line(
    begin: Callable[..., GuardedWandbLogger], said: list[str], tmp_path: Path
) -> None:
    logger = begin()
    said.clear()
    for step in range(3):
        logger.log_image("figure", [str(tmp_path / "missing.png")], step=step)
        log(logger, step)
    finish(0)
    (line,) = said
    assert "log_image" in line
    assert "missing.png" in line
    (part,) = parts(tmp_path / "run")
    assert steps(part) == [0, 1, 2]


def test_rows_out_of_order_join_the_last_one(begin: Callable[..., GuardedWandbLogger], tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "figure.png")
    logger = begin()
    log(logger, 3, 19)
    logger.log_image("val/figure", [str(tmp_path / "figure.png")], step=20)
    logger.log_metrics({"val/loss": 0.5}, step=19)
    logger.log_image("unnumbered", [str(tmp_path / "figure.png")])
    logger.log_metrics({"test/loss": 0.25})
    finish(0)
    rows = history(*parts(tmp_path / "run"))
    assert [(row["_step"], row["trainer/global_step"]) for row in rows] == [(3, 3), (19, 19), (20, 20)]
    assert {"val/figure.filenames", "val/loss", "unnumbered.filenames", "test/loss"} <= set(rows[-1])


@pytest.mark.nightly
def test_offline_parts_of_a_resumed_run_are_one_run(
    begin: Callable[..., GuardedWandbLogger], said: list[str], tmp_path: Path
) -> None:
    log(begin(), *range(6))
    finish(1)
    log(begin(), *range(4, 9))  # from a checkpoint a little before the end
    finish(0)
    first, second = parts(tmp_path / "run")
    assert (steps(first), steps(second)) == (list(range(6)), list(range(4, 9)))
    _, folders = said[-1].split("wandb sync ")
    with WandbServer() as server:
        sync(said[-1].replace(folders, f"{second} {first}"), server.url)
        run = server.runs["trial-run"]
        assert server.unknown == []
    assert [row["trainer/global_step"] for row in run.history] == [*range(6), *range(4, 9)]
    for repeated in (4, 5):
        assert len({row["loss"] for row in run.history if row["trainer/global_step"] == repeated}) == 1
    assert [row["_step"] for row in run.history] == list(range(11))  # W&B numbers on from what it has
    assert run.summary["loss"] == 10.0


def test_a_run_resumed_online_has_every_step_once(
    account: Callable[[str], None],
    begin: Callable[..., GuardedWandbLogger],
    said: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    with WandbServer() as server:
        account(server.url)
        log(begin(), *range(6))
        finish(1)
        log(begin(), *range(4, 9))
        finish(0)
        (line,) = said
        assert "up to step 5" in line
        said.clear()
        begin().log_metrics({"test/loss": 0.5}, step=0)  # an evaluation by a new trainer
        finish(0)
        assert said == []
        run = server.runs["trial-run"]
    assert [row["_step"] for row in run.history] == list(range(10))
    assert [row.get("test/loss") for row in run.history] == [None] * 9 + [0.5]
    assert "monoton" not in capfd.readouterr().err  # W&B's warning of each row that it drops


class Fit:
    """The program in a process of its own, at work on the digits while the test looks on."""

    def __init__(self, cwd: Path, url: str, *words: str) -> None:
        loggers = [
            {"class_path": "GuardedWandbLogger", "init_args": {"init_timeout": 2.0, "finish_timeout": 10.0}},
            {"class_path": "MetricsFile"},
        ]
        (cwd / "loggers.yaml").write_text(yaml.safe_dump({"trainer": {"logger": loggers, "log_every_n_steps": 1}}))
        known = {"WANDB_MODE": "online", "WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": url}
        self.folder, self.output = cwd / "runs" / "digits" / "one", cwd / "output.txt"
        self.output.unlink(missing_ok=True)
        self.process = start(cwd, "fit", "--config", "loggers.yaml", *words, env=known)

    def wait_until(self, happened: Callable[[], bool]) -> None:
        wait_for(happened, self.process)

    def end(self) -> str:
        self.process.join(HANGS_SECONDS)
        return self.output.read_text()


@pytest.mark.nightly
def test_a_program_killed_and_resumed_online_is_one_run(tmp_path: Path) -> None:
    with WandbServer() as server:
        killed = Fit(tmp_path, server.url, "--config", "digits.yaml", "--run_id", "one", "--trainer.max_epochs", "40")
        killed.wait_until(
            lambda: "digits-one" in server.runs and len(server.runs["digits-one"].lines) > 20
        )  # sent every 15 s
        killed.process.kill()
        killed.end()
        (part,) = parts(killed.folder)
        logged = len(metrics(killed.folder)["train/loss"])
        epochs = logged // 20 + 2
        checkpoint = killed.folder / "checkpoints" / "last.ckpt"
        resumed = Fit(tmp_path, server.url, "--ckpt_path", str(checkpoint), "--trainer.max_epochs", str(epochs))
        output = resumed.end()
        assert resumed.process.exitcode == 0, output
        (run,) = server.runs.values()
    assert steps(part) == list(range(len(steps(part))))
    rows = run.history
    assert (
        [row["_step"] for row in rows] == [row["trainer/global_step"] for row in rows] == list(range(20 * epochs + 1))
    )
    assert [row["_step"] for row in rows if "train/loss" in row] == list(range(20 * epochs))
    assert rows[-1]["test/accuracy"] == pytest.approx(metrics(resumed.folder)["test/accuracy"][-1])
    assert (run.name, run.fields["groupName"], run.exit_code) == ("digits-one", "digits-DynamicRouting", 0)
    assert output.count("W&B:") == 1
    assert "monoton" not in output


@pytest.mark.nightly
def test_a_program_whose_core_is_killed_loses_nothing(tmp_path: Path) -> None:
    with WandbServer() as server:
        fit = Fit(tmp_path, server.url, "--config", "digits.yaml", "--run_id", "one", "--trainer.max_epochs", "3")
        fit.wait_until((fit.folder / "metrics.csv").is_file)
        os.kill(core_of(fit.process.pid), signal.SIGKILL)
        output = fit.end()
    assert fit.process.exitcode == 0, output
    values = metrics(fit.folder)
    assert (len(values["train/loss"]), len(values["val/accuracy"]), len(values["test/accuracy"])) == (60, 3, 1)
    assert output.count("W&B:") == 1
    assert "Traceback" not in output
    _, second = parts(fit.folder)
    assert steps(second) == list(range(steps(second)[0], 61))
    assert config(second)["trainer.max_epochs"] == 3
