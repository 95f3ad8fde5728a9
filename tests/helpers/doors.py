"""Whatever comes through a door: an answer of one line, or the work done; never anything else."""

import copy
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capsule_lightning.errors import InputError

Door = Callable[[Path, Any], object]
Doors = dict[str, tuple[Door, st.SearchStrategy[Any], int]]
"""Doors by name, each with what is brought to it and how many examples a night holds."""

BY_DAY = 10
SECONDS = 20.0
"""The longest that one answer may take, far above what the slowest needs: this tells a hang, not a busy machine."""
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def answered(door: Door, folder: Path, given_value: Any) -> None:
    """Go through a door; only an answer of one line may come back, and no file may be another afterwards."""
    before, begun = contents(folder), time.monotonic()
    try:
        door(folder, given_value)
    except InputError as refused:
        assert "\n" not in str(refused)  # noqa: PT017, most go through
    assert contents(folder) == before
    assert time.monotonic() - begun < SECONDS


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def replaced(config: dict[str, Any], where: float, value: Any) -> dict[str, Any]:
    """A copy of a configuration with something else in one of its places."""
    made = copy.deepcopy(config)
    places = list(nodes(made))
    node, key = places[int(where * len(places)) % len(places)]
    node[key] = value
    return made


def nodes(node: Any) -> Any:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield node, key
        yield from nodes(value)


def mutated(content: bytes, first: int | None = None) -> st.SearchStrategy[bytes]:
    """A file with other bytes in some places, of the ``first`` ones if there are many, or with its end cut off."""
    last = min(len(content), first or len(content)) - 1
    edits = st.lists(st.tuples(st.integers(0, last), st.integers(0, 255)), min_size=1, max_size=8)
    return st.builds(_changed, st.just(content), edits, st.none() | st.integers(0, len(content)))


def _changed(content: bytes, edits: list[tuple[int, int]], end: int | None) -> bytes:
    made = bytearray(content)
    for place, value in edits:
        made[place] = value
    return bytes(made[:end])


def every_door(doors: Doors) -> pytest.MarkDecorator:
    """Try each door with a few examples by day and with many at night."""
    return pytest.mark.parametrize(
        ("door", "examples"),
        [
            pytest.param(name, count, id=f"{name}-{count}", marks=[pytest.mark.nightly] if count > BY_DAY else [])
            for name in doors
            for count in (BY_DAY, doors[name][2])
        ],
    )


def go_through(through: Door, made: st.SearchStrategy[Any], examples: int, working: Path) -> None:
    """Bring examples to a door, each in a new folder below ``working``."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples <= BY_DAY,
        suppress_health_check=list(HealthCheck),
    )
    @given(made)
    def go(value: Any) -> None:
        folder = working / "folder"
        folder.mkdir()
        try:
            through(folder, value)
        finally:
            shutil.rmtree(folder)

    go()
