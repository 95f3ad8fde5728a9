"""What a run has recorded of its starts: with which code, by which command, when and where."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from capsule_lightning.runs.plain_json import parse_json
from capsule_lightning.shipped import PROGRAM

ENVIRONMENT_NAME = "environment.json"
LONGEST = 300
"""Most characters of a command that are shown."""


def starts_of(folder: Path) -> list[Any]:
    """Return what a run has recorded of its earlier starts; nothing if that cannot be read."""
    path = folder / ENVIRONMENT_NAME
    with suppress(OSError, ValueError, TypeError, KeyError):
        return list(parse_json(path.read_text(encoding="utf-8"), path)["starts"])
    return []


def told_of_starts(folder: Path) -> dict[str, str]:
    """Return the code and the command of a run's last start in words, by what they are; empty if it has no record."""
    starts = [start for start in starts_of(folder) if isinstance(start, Mapping)]
    if not starts:
        return {}
    last = {name: str(value)[:LONGEST] for name, value in starts[-1].items() if value is not None}
    commit = f" at commit {last['commit'][:10]}" if "commit" in last else ""
    versions = [f"{name} {last[name]}" for name in (PROGRAM, "torch", "lightning", "python") if name in last]
    when = f", {last['time'][:10]}" if "time" in last else ""
    told = {"trained with": f"{', '.join(versions)}{commit}{when}"}
    if len(starts) > 1:
        told["starts"] = f"{len(starts)}; this is the last"
    return told | ({"command": last["command"]} if "command" in last else {})
