"""Signals: a run that is asked to end saves its state, leaves with the right status, and goes on from there."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import run, start, wait_for
from resumed import FIT, NOISY, assert_same_end, last, steps_logged
from tiers import nightly_but

from capsule_lightning.runs.signals import Signals, is_started_with_others, requeue

#: Nothing is saved by step or time: what is there, the signal has saved.
SELDOM = NOISY.replace("every_n_steps: 4", "every_n_steps: null")


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "noisy.yaml").write_text(SELDOM)
    return tmp_path


def output(cwd: Path) -> str:
    return (cwd / "output.txt").read_text()


@pytest.mark.long(10)
@pytest.mark.parametrize(
    ("number", "status"),
    nightly_but(
        [(signal.SIGTERM, 143)],
        [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 0), (signal.SIGHUP, 129)],
    ),
    ids=str,
)
def test_a_signal_saves_and_leaves(number: signal.Signals, status: int, cwd: Path, whole: Path) -> None:
    process = start(cwd, *FIT)
    wait_for(lambda: steps_logged(cwd) >= 26, process)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == status, output(cwd)[-3000:]
    assert "Traceback" not in output(cwd)
    left = steps_logged(cwd)
    assert last(cwd)["global_step"] == left < 100  # the last step is both saved and logged
    assert run(cwd, *FIT, "--resume") == 0, output(cwd)[-3000:]
    assert_same_end(cwd, whole)


@pytest.mark.parametrize(
    ("variables", "status", "calls", "done"),
    [
        ({}, 1, [], True),
        ({"SLURM_JOB_ID": "5", "SLURM_PROCID": "1"}, 1, [], True),
        ({"SLURM_JOB_ID": "5", "SLURM_PROCID": "0"}, 0, [["scontrol", "requeue", "5"]], True),
        ({"SLURM_JOB_ID": "5", "SLURM_PROCID": "0"}, 1, [["scontrol", "requeue", "5"]], False),
        ({"SLURM_JOB_ID": "5", "SLURM_PROCID": "0"}, None, [["scontrol", "requeue", "5"]], False),  # is not there
        (
            {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"},
            0,
            [["scontrol", "requeue", "5_2"]],
            True,
        ),
    ],
)
def test_the_first_process_of_a_job_queues_it_again_and_says_if_that_failed(
    variables: dict[str, str],
    status: int | None,
    calls: list[list[str]],
    done: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    called: list[list[str]] = []

    def scontrol(command: list[str], check: bool) -> None:
        called.append(command)
        if status is None:
            raise FileNotFoundError("scontrol")
        if status and check:
            raise subprocess.CalledProcessError(status, command)

    monkeypatch.setattr(os, "environ", variables)
    monkeypatch.setattr(subprocess, "run", scontrol)
    assert requeue() is done
    assert called == calls
    assert ("resume by hand" in capsys.readouterr().err) is not done


@pytest.mark.nightly
def test_a_second_interrupt_does_not_wait(cwd: Path) -> None:
    slow = ("--trainer.callbacks+", "slow.SlowSteps")
    process = start(cwd, *FIT, *slow)
    wait_for(lambda: steps_logged(cwd) >= 2, process)
    os.kill(process.pid, signal.SIGINT)
    wait_for(lambda: "Ctrl-C again" in output(cwd), process)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode in (1, 130)
    assert "Traceback" not in output(cwd)


@pytest.mark.long(8)
def test_a_job_is_queued_again_only_when_its_time_is_up(cwd: Path) -> None:
    scontrol = cwd / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "$@" >> "$0.calls"\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    job = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2", "SLURM_PROCID": "0"}
    env = {**job, "PATH": f"{cwd}:{os.environ['PATH']}"}
    for number, calls in ((signal.SIGTERM, ""), (signal.SIGUSR1, "requeue 5_2\n")):
        process = start(cwd, *FIT, "--resume", env=env)
        before = steps_logged(cwd)
        wait_for(lambda before=before: steps_logged(cwd) > before, process)
        os.kill(process.pid, number)
        process.join(60)
        made = cwd / "scontrol.calls"
        assert (made.read_text() if made.exists() else "") == calls, output(cwd)[-3000:]


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    numbers = (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for handler in (signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(signal.SIGHUP, handler)
            signals = Signals()
            for change in (signals.leave_at_once, signals.take_note):
                change()
                assert (signal.getsignal(signal.SIGHUP) == signal.SIG_IGN) == (handler == signal.SIG_IGN)
                assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ((), False),
        (("LOCAL_RANK",), False),  # of SLURM, say, which ends its tasks itself
        (("TORCHELASTIC_RUN_ID", "LOCAL_RANK"), True),
        (("CAPSULE_LIGHTNING_RUN_ID", "LOCAL_RANK"), True),
        (("CAPSULE_LIGHTNING_RUN_ID",), False),  # of a user, for all processes
    ],
)
def test_who_is_started_with_others(variables: tuple[str, ...], expected: bool) -> None:
    assert is_started_with_others(dict.fromkeys(variables, "0")) == expected


def test_a_process_ends_with_the_one_that_has_started_it() -> None:
    worker = """if True:
        import time
        from capsule_lightning.runs.signals import end_with_parent
        end_with_parent()
        print("watching", flush=True)
        time.sleep(60)
    """
    parent = f"""if True:
        import subprocess, sys
        worker = subprocess.Popen([sys.executable, "-c", {worker!r}], stdout=subprocess.PIPE)
        worker.stdout.readline()
        print(worker.pid)
    """
    done = subprocess.run([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, check=True)
    end = time.monotonic() + 20
    while Path(f"/proc/{int(done.stdout)}").exists():
        assert time.monotonic() < end, "it is still there"
        time.sleep(0.1)


def import_slowly() -> None:
    """Receive a signal while the libraries are imported."""
    import capsule_lightning.cli.training

    def run(words: list[str]) -> None:
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))

    capsule_lightning.cli.training.run = run


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 0)])
def test_a_signal_before_the_beginning(number: signal.Signals, status: int, cwd: Path) -> None:
    assert run(cwd, *FIT, env={"SIGNAL": str(int(number))}, first=import_slowly) == status
    assert "Traceback" not in output(cwd)


@pytest.mark.nightly
@pytest.mark.long(8)
def test_a_signal_in_the_test_after_fit_loses_nothing(cwd: Path) -> None:
    words = (*FIT, "--test_after_fit=true", "--trainer.max_epochs=1")
    process = start(cwd, *words, "--trainer.callbacks+", "slow.SlowTest")
    wait_for(lambda: "the test begins" in (output(cwd) if (cwd / "output.txt").exists() else ""), process)
    os.kill(process.pid, signal.SIGUSR1)
    process.join(60)
    assert process.exitcode == 0
    assert "test/accuracy" not in (cwd / "runs" / "digits" / "one" / "metrics.csv").read_text()
    assert run(cwd, *words, "--resume") == 0, output(cwd)[-3000:]
    assert "test/accuracy" in (cwd / "runs" / "digits" / "one" / "metrics.csv").read_text()
