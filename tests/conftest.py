import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from program import Run, capsule_lightning

from capsule_lightning.cli import main


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # that `seed_everything` of another test has left


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
