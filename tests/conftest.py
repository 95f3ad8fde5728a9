"""Fixtures of all tests, and their budget.

What takes seconds to import is imported by what needs it: the process that hands the tests out to the workers does not.
"""

from __future__ import annotations

import gc
import os
import shlex
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import fork_server
import pytest
from budget import allowed, cpu_seconds, give_memory_back, spread
from once import once

from capsule_lightning.loggers.wandb_service import import_before_torch

if TYPE_CHECKING:
    from program import Run


def pytest_configure(config: pytest.Config) -> None:
    # ignored where a script has started the tests in the background, and then by every program that they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # or a process that has asked whether there is a GPU could not be forked
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    if config.getoption("tx", None):  # this process hands tests out to workers
        fork_server.door()
        python = shlex.join((sys.executable, fork_server.__file__))
        config.option.tx = [f"{worker}//python={python}" for worker in config.getoption("tx")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    spread(items)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect without looking for garbage, and then never again through what was imported."""
    if not session.config.getoption("numprocesses", None):  # not the process that hands the tests out
        import_before_torch()
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_runtest_logfinish() -> None:
    give_memory_back()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test of the default tier that costs more than its budget."""
    before = cpu_seconds()
    result = yield
    spent, budget = cpu_seconds() - before, allowed(item)
    if spent > budget:
        pytest.fail(
            f"took {spent:.1f} s of processor time, and the default tier allows {budget:.1f} s: mark it nightly, or "
            "share a fixture (see TESTING.md)",
            pytrace=False,
        )
    return result


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    torch.manual_seed(0)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # that `seed_everything` of another test has left


@pytest.fixture
def run_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """The program in this process, in an empty folder, W&B off; gives back that folder."""
    from capsule_lightning.cli import main

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
    """Two epochs on the embedded digits, by someone with no network, no key and no options."""
    from program import Run, capsule_lightning

    def train(cwd: Path) -> str:
        done = capsule_lightning(cwd, "fit", "--trainer.max_epochs", "2")
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    cwd, output = once(tmp_path_factory, "trained", train)
    (folder,) = (cwd / "runs" / "digits").iterdir()
    return Run(cwd, folder, output)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `resumed.FIT` that nobody disturbs."""
    from resumed import undisturbed

    return once(tmp_path_factory, "whole", undisturbed)[0]
