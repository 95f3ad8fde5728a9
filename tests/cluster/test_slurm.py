"""The shipped batch script under a real SLURM of two nodes, two processes a job, on the CPU.

A run that is queued again, whatever the reason, ends as the one that nobody disturbs: to the last bit.
"""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from cluster.small_slurm import NODES, SmallSlurm
from cluster.waiting import until
from program import clean_environment, metrics
from resumed import NOISY, assert_same_end

from capsule_lightning.shipped import CONFIG_DIR

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may start other processes for SLURM"),
    pytest.mark.skipif(
        not all(
            shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("munged", "slurmctld", "slurmd")
        ),
        reason="SLURM is not installed",
    ),
]

SCRIPT = CONFIG_DIR / "cluster" / "slurm.sh"
#: What the machine of this test has; options of sbatch win over those in the script.
NODE = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1")
FIT = ("fit", "--config=digits", "--config=noisy.yaml", "--trainer.max_epochs=12")
CPU = ("--trainer.accelerator=cpu", "--trainer.precision=32-true")
STEPS = 240
#: Nothing is saved by step or time: what is there, the end of an epoch or a signal has saved.
SELDOM = NOISY.replace("every_n_steps: 4", "every_n_steps: null")


def submit(slurm: SmallSlurm, cwd: Path, *words: str) -> str:
    """A new job's id."""
    (cwd / "noisy.yaml").write_text(SELDOM)
    environment = clean_environment(cwd) | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GLOO_SOCKET_IFNAME": "lo",
        "WANDB_MODE": "disabled",
    }
    return slurm.call("sbatch", "--parsable", *words, env=environment, cwd=cwd).strip()


ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "OUT_OF_MEMORY")


class Job:
    """One job, or one task of an array, in a folder of its own.

    Args:
        slurm: that runs it.
        cwd: from which it is submitted.
        words: of the program.
        options: of sbatch.
        number: its id; it is submitted where there is none.
    """

    def __init__(
        self, slurm: SmallSlurm, cwd: Path, *words: str, options: tuple[str, ...] = (), number: str | None = None
    ) -> None:
        self.slurm, self.cwd = slurm, cwd
        if number is None:
            number = submit(slurm, cwd, *NODE, *options, str(SCRIPT), *words, *CPU)
        self.number = number

    @property
    def folder(self) -> Path:
        return self.cwd / "runs" / "digits" / f"slurm-{self.number.replace('_', '-')}"

    @property
    def output(self) -> str:
        path = self.cwd / f"slurm-{self.number}.out"
        return path.read_text() if path.is_file() else ""

    def field(self, name: str) -> str:
        """What SLURM says of the job."""
        words = self.slurm.call("scontrol", "show", "job", self.number, "-o").split()
        return dict(word.split("=", 1) for word in words if "=" in word)[name]

    @property
    def steps(self) -> int:
        """Steps that were logged, repeated ones again."""
        path = self.folder / "metrics.csv"
        return path.read_text().count(",train/loss,") if path.is_file() else 0

    def reach(self, step: int) -> None:
        """Wait until the run has come so far."""
        until(lambda: self.steps >= step or self._is("FAILED", "CANCELLED"), f"step {step} of {self.number}")
        assert self.steps >= step, self.output[-3000:]

    def end(self) -> str:
        """Wait for the end, but not for the two minutes of a job that is queued again; its state."""
        until(self._has_ended, f"the end of {self.number}", seconds=300)
        return self.field("JobState")

    def _has_ended(self) -> bool:
        if self._is("PENDING"):
            self.slurm.call("scontrol", "update", f"JobId={self.number}", "StartTime=now", check=False)
        if not self._is(*ENDED):
            return False
        time.sleep(2)  # a job on its way back into the queue may seem to have ended for a moment
        return self._is(*ENDED)

    def _is(self, *states: str) -> bool:
        return self.field("JobState") in states

    def assert_resumed_to_the_same_end(self, whole: Path) -> None:
        assert self.end() == "COMPLETED", self.output[-5000:]
        restarts = int(self.field("Restarts"))
        assert restarts >= 1
        assert self.output.count(f"going on from runs/digits/{self.folder.name}/checkpoints/") == restarts
        assert "Traceback" not in self.output
        assert "run:        runs/digits/" in self.output  # the test after it was run, too
        self.known_as_one()
        assert_same_end(self.cwd, whole)

    def known_as_one(self) -> None:
        """Under the name by which `resumed` knows a run."""
        (self.folder.parent / "one").symlink_to(self.folder.name)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallSlurm]:
    slurm = SmallSlurm(tmp_path_factory.mktemp("slurm"))
    yield slurm
    slurm.stop()


@pytest.fixture(scope="module")
def whole(slurm: SmallSlurm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job that nobody disturbs, which comes to its end."""
    job = Job(slurm, tmp_path_factory.mktemp("whole"), *FIT)
    assert job.end() == "COMPLETED", job.output[-5000:]
    assert job.field("Restarts") == "0"
    assert job.steps == STEPS
    assert "Starting with 2 processes" in job.output
    assert "test/accuracy" in (job.folder / "metrics.csv").read_text()
    job.known_as_one()
    return job.cwd


def requeue(slurm: SmallSlurm, number: str) -> None:
    slurm.call("scontrol", "requeue", number)


def time_is_up(slurm: SmallSlurm, number: str) -> None:
    """What --signal sends, without the wait."""
    slurm.call("scancel", "-s", "USR1", number)


def comes_back(slurm: SmallSlurm, node: str) -> bool:
    slurm.call(
        "scontrol", "update", f"NodeName={node}", "State=RESUME", check=False
    )  # refused where it is back by itself
    return "State=DOWN" not in slurm.call("scontrol", "show", "node", node)


@pytest.mark.parametrize(
    ("disturb", "slow"),
    [(requeue, -1), (requeue, 0), (time_is_up, -1), (time_is_up, 0), (time_is_up, 1)],
    ids=["requeue", "requeue, rank 0 slow", "time is up", "time is up, rank 0 slow", "time is up, rank 1 slow"],
)
def test_a_job_that_is_queued_again(
    disturb: Callable[[SmallSlurm, str], None], slow: int, slurm: SmallSlurm, whole: Path, tmp_path: Path
) -> None:
    job = Job(slurm, tmp_path, *FIT, "--trainer.callbacks+=cluster.skewed.SlowRank", f"--trainer.callbacks.rank={slow}")
    job.reach(25)
    disturb(slurm, job.number)
    job.assert_resumed_to_the_same_end(whole)
    assert job.field("Restarts") == "1"
    assert job.steps == STEPS  # no step was repeated
    assert ("putting job" in job.output) == (disturb is time_is_up)


def test_a_node_that_is_lost(slurm: SmallSlurm, whole: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, *FIT)
    job.reach(25)
    slurm.call("scontrol", "update", f"NodeName={NODES[1]}", "State=DOWN", "Reason=test")
    until(lambda: job.field("Restarts") == "1", "the job is queued again")
    until(lambda: comes_back(slurm, NODES[1]), "the node is back")
    job.assert_resumed_to_the_same_end(whole)


def test_the_real_limit_of_time(slurm: SmallSlurm, whole: Path, tmp_path: Path) -> None:
    slow = (
        "--trainer.callbacks+=cluster.skewed.SlowRank",
        "--trainer.callbacks.rank=1",
        "--trainer.callbacks.steps=200",
    )
    job = Job(slurm, tmp_path, *FIT, *slow, options=("--time=2", "--signal=SIGUSR1@45"))
    job.assert_resumed_to_the_same_end(whole)
    assert f"putting job {job.number} into the queue again" in job.output
    assert job.steps == STEPS


def test_an_array_of_seeds(slurm: SmallSlurm, whole: Path, tmp_path: Path) -> None:
    array = Job(slurm, tmp_path, *FIT, options=("--array=0-1",)).number
    zero, one = (Job(slurm, tmp_path, number=f"{array}_{seed}") for seed in (0, 1))
    zero.reach(25)
    time_is_up(slurm, zero.number)
    assert one.end() == "COMPLETED", one.output[-5000:]
    zero.assert_resumed_to_the_same_end(whole)  # whose seed is the default, 0
    assert f"putting job {array}_0 into the queue again" in zero.output
    assert one.field("Restarts") == "0"
    assert yaml.safe_load((one.folder / "config.yaml").read_text())["seed_everything"] == 1
    assert one.steps == STEPS
    assert metrics(one.folder)["train/loss"] != metrics(zero.folder)["train/loss"]


def test_a_process_that_dies_ends_the_job(slurm: SmallSlurm, tmp_path: Path) -> None:
    harm = ("--trainer.callbacks+=harmful.KillRank", "--trainer.callbacks.steps=[12]")
    job = Job(slurm, tmp_path, *FIT, *harm)
    assert job.end() == "FAILED"
    assert (tmp_path / "killed-12").exists()
    assert "task 1: Killed" in job.output  # SLURM is often faster than the others' notice of it
    assert "Traceback" not in job.output


def test_torchrun_within_a_job(slurm: SmallSlurm, tmp_path: Path) -> None:
    words = (*FIT, *CPU, "--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.max_epochs=1")
    command = shlex.join(("torchrun", "--standalone", "--nproc_per_node=2", "-m", "capsule_lightning", *words))
    job = Job(slurm, tmp_path, number=submit(slurm, tmp_path, "--nodes=1", "--ntasks-per-node=1", f"--wrap={command}"))
    assert job.end() == "COMPLETED", job.output[-3000:]
    assert "Starting with 2 processes" in job.output
    assert job.steps == 20
