"""Reads what W&B has written to disk, with W&B's own reader."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

WANDB = str(Path(sys.executable).with_name("wandb"))


def parts(folder: Path) -> list[Path]:
    """The parts of the run in a folder, online and offline ones, in the order in which they were begun."""
    found = [path for path in (folder / "wandb").iterdir() if not path.is_symlink() and "run-" in path.name]
    return sorted(found, key=lambda path: re.sub(r"^(offline-)?run-", "", path.name))


@cache
def _inspect(log: Path, size: int) -> list[dict[str, Any]]:
    words = [WANDB, "leet", "inspect", "--json", str(log)]
    shown = subprocess.run(words, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in shown.stdout.splitlines()]


def records(part: Path, kind: str) -> list[dict[str, Any]]:
    """Records of one kind, such as ``run``, ``config``, ``history`` and ``exit``."""
    (log,) = part.glob("run-*.wandb")
    return [line[kind] for line in _inspect(log, log.stat().st_size) if line["type"] == kind]


def history(part: Path) -> list[dict[str, Any]]:
    """The rows."""
    return [record["item"] for record in records(part, "history")]


def steps(part: Path) -> list[int]:
    """Of the rows."""
    return [row["_step"] for row in history(part)]


def config(part: Path) -> dict[str, Any]:
    """As it ends up."""
    begun = [record.get("config", {}) for record in records(part, "run")]
    updates = [update.get("update", {}) for update in begun + records(part, "config")]
    return {key: value for update in updates for key, value in update.items() if key != "_wandb"}
