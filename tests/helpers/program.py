"""The program as a user starts it, and what it leaves behind."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import forked
from environment import clean_environment

#: A network that trains in a moment, and whose pictures nobody looks at.
TINY = (
    "--model.net.encoder.channels=4",
    "--model.net.encoder.num_types=2",
    "--model.net.decoder.hidden=[8]",
    "--trainer.accelerator=cpu",
    "--without=ReconstructionFigures",
    "--without=ConfusionFigure",
)


class Run(NamedTuple):
    """A finished training run."""

    cwd: Path
    folder: Path
    output: str

    @property
    def checkpoint(self) -> str:
        return str(next((self.folder / "checkpoints").glob("epoch*.ckpt")))


def capsule_lightning(cwd: Path, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the program in a forked process, as a user would in an empty environment, and return what it left."""
    return forked.complete(cwd, words, clean_environment(cwd), timeout)


def started(cwd: Path, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does, by ``python -m``: the proof that `capsule_lightning` stands for it."""
    return subprocess.run(
        [sys.executable, "-m", "capsule_lightning", *words],
        cwd=cwd,
        env=clean_environment(cwd),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def torchrun(cwd: Path, processes: int, *words: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the program under torchrun, on the CPU."""
    launch = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        f"--max-restarts={restarts}",
    )
    trainer = ("--trainer.accelerator=cpu", "--trainer.strategy=ddp", f"--trainer.devices={processes}")
    environment = clean_environment(cwd) | {
        "WANDB_MODE": "disabled",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # else workers that are started again meet the old ones' addresses
    }
    return subprocess.run(
        [sys.executable, *launch, "-m", "capsule_lightning", *words, *trainer],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def metrics(folder: Path) -> dict[str, list[float]]:
    """Every metric of a run, in the order in which it was written."""
    values: dict[str, list[float]] = {}
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            values.setdefault(row["metric"], []).append(float(row["value"]))
    return values
