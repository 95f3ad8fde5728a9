"""The record of a run: ``config.yaml`` says what was trained, ``environment.json`` where, when and with which code."""

from __future__ import annotations

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from typing_extensions import override

from capsule_lightning import __version__
from capsule_lightning.cli.changes import Change, apply_changes, patience_of
from capsule_lightning.components.run_config import trust_what_is_unusual
from capsule_lightning.data.text import TextDataModule
from capsule_lightning.data.vocabulary_files import FILE, vocabulary_text
from capsule_lightning.errors import StoppedError
from capsule_lightning.runs.files import write_whole
from capsule_lightning.runs.folders import CONFIG_NAME, flat
from capsule_lightning.runs.plain_yaml import dump_yaml
from capsule_lightning.runs.starts import ENVIRONMENT_NAME, starts_of
from capsule_lightning.shipped import PACKAGE, PROGRAM

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy", "wandb")
"""Packages whose versions are recorded."""
MOST_STARTS = 100
"""How many starts of a run are recorded, the newest."""


class RunRecord(L.Callback):
    """Write the resolved config into the folder of a training run, and flat into its loggers.

    The record of a new run is written when training starts, that of a resumed run after its first step: what is refused
    leaves the record as it was. Every checkpoint holds the configuration it was trained with.

    Args:
        config: the mapping to write.

    Attributes:
        changes: in which a resumed run differs from its checkpoint; applied when training starts.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.changes: list[Change] = []
        self._is_written = False
        self._patience: dict[EarlyStopping, int] = {}

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._patience = patience_of(trainer)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        apply_changes(self.changes, trainer)
        for callback, patience in self._patience.items():
            callback.patience = patience
        if not (Path(trainer.default_root_dir) / CONFIG_NAME).is_file():
            self._write(trainer)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._is_written:
            self._write(trainer)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"config": dict(self.config)}

    def _write(self, trainer: L.Trainer) -> None:
        self._is_written = True
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        folder = Path(trainer.default_root_dir)
        remedy = "make room, then resume with: fit --resume"
        write_whole(folder / CONFIG_NAME, dump_yaml(self.config), make_folder=True, remedy=remedy, error=StoppedError)
        trust_what_is_unusual(folder)
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, TextDataModule):
            write_whole(folder / FILE, vocabulary_text(data.vocabulary), remedy=remedy, error=StoppedError)
        starts = [*starts_of(folder), environment(trainer)][-MOST_STARTS:]
        text = json.dumps({"starts": starts}, indent=1) + "\n"
        write_whole(folder / ENVIRONMENT_NAME, text, remedy=remedy, error=StoppedError)
        for logger in trainer.loggers:
            logger.log_hyperparams(dict(flat(self.config)))


def environment(trainer: L.Trainer) -> dict[str, Any]:
    """Return what is worth knowing of one start of a run, plain values alone."""
    devices = {"accelerator": type(trainer.accelerator).__name__, "devices": trainer.world_size}
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(["python", "-m", PROGRAM, *sys.argv[1:]]),
        "folder": os.getcwd(),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "python": platform.python_version(),
        PROGRAM: __version__,
        "commit": commit(PACKAGE),
        **{name: _version(name) for name in PACKAGES},
        **devices,
        "step": trainer.global_step,
    }


def commit(folder: Path) -> str | None:
    """Return the commit of the code in a folder, with ``+`` if it has been changed since; None outside a repository."""
    git = ("git", "-C", str(folder))
    try:
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "."],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
