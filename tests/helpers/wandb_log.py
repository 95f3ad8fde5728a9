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


def labels(part: Path) -> dict[str, Any]:
    """Of the run: its id, name, group, job type, tags and project."""
    (run,) = records(part, "run")
    names = {"id": "run_id", "name": "display_name", "group": "run_group", "job_type": "job_type"}
    return {name: run.get(field) for name, field in {**names, "tags": "tags", "project": "project"}.items()}


def table(part: Path, key: str) -> list[dict[str, Any]]:
    """The rows of a table, by column; a picture is the path of its file."""
    assert [row[f"{key}._type"] for row in history(part) if f"{key}._type" in row] == ["table-file"]
    artifacts = [artifact["manifest"]["contents"] for artifact in records(part, "artifact")]
    files = {file["path"]: Path(file["local_path"]) for contents in artifacts for file in contents}
    made = json.loads(files[f"{key}.table.json"].read_text())

    def cell(value: Any) -> Any:
        return files[value["path"]] if isinstance(value, dict) and value["_type"] == "image-file" else value

    return [dict(zip(made["columns"], map(cell, row), strict=True)) for row in made["data"]]


def images(part: Path, key: str) -> list[Path]:
    """The files of the pictures that were logged under a name."""
    return [part / "files" / name for row in history(part) for name in row.get(f"{key}.filenames", [])]
