import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from capsule_lightning.cli import main


class Run(NamedTuple):
    """A finished training run."""

    cwd: Path
    folder: Path
    output: str

    @property
    def checkpoint(self) -> str:
        return str(next((self.folder / "checkpoints").glob("epoch*.ckpt")))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def clean_environment(home: Path) -> dict[str, str]:
    """The environment of someone with no W&B account, no data and one thread a process."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "CAPSULE_LIGHTNING", "SLURM"))}
    return {**kept, "HOME": str(home), "NETRC": str(home / "netrc"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def capsule_lightning(cwd: Path, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does, in a process of its own."""
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


@pytest.fixture
def run_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """The program in this process, in an empty folder, W&B off; gives back that folder."""
    for name in list(os.environ):
        if name.startswith(("WANDB", "CAPSULE_LIGHTNING")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(sys, "argv", ["capsule_lightning"])
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Path:
        main(words)
        return tmp_path

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four epochs on the embedded digits, by someone with no network, no key and no options."""
    cwd = tmp_path_factory.mktemp("trained")
    done = capsule_lightning(cwd, "fit", "--trainer.max_epochs", "4")
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (cwd / "runs" / "digits").iterdir()
    return Run(cwd, folder, done.stdout + done.stderr)
