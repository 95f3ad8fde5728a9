"""What a test of the default tier may cost: processor time, so that other work on the machine changes little."""

import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

SECONDS = 5.0
"""Processor time that one test may take, its processes included."""
SLACK = 3.0
"""A machine whose cores are shared needs more processor time for the same work; with two workers for each core 2.5
times as much has been seen."""


def cpu_seconds() -> float:
    """Return the processor time of this process, of its children that have ended, and of the forked programs."""
    own = sum(os.times()[:4])
    forked = sys.modules.get("forked")
    return own + (forked.cpu_seconds() if forked else 0.0)


GROWTH = 200 * 2**20
"""Bytes by which a worker may grow before it gives back what tests have left."""
_resident = 0  # bytes after the last time, or at the first test


def give_memory_back() -> None:
    """Free cycles, and what the allocator holds, once a worker has grown: training keeps the heap for itself.

    Not after every test: looking through all objects of torch, Lightning and W&B takes most of a second.
    """
    global _resident
    with suppress(OSError, AttributeError):  # not Linux, not glibc
        if resident() > _resident + GROWTH:
            if _resident:
                gc.collect()
                ctypes.CDLL(None).malloc_trim(0)
            _resident = resident()


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def allowed(item: pytest.Item) -> float:
    """Return the processor time in seconds that a test may take.

    It is infinite outside the default tier, and where there is a GPU, for which kernels have to be compiled.
    """
    import torch  # not in the process that hands the tests out

    if item.get_closest_marker("nightly") or item.get_closest_marker("slow") or torch.cuda.is_available():
        return float("inf")
    return SLACK * (_long(item) or SECONDS)


SPREAD = 0.7
"""Share of the other tests that has begun when the last of the long ones begins."""


def spread(items: list[pytest.Item]) -> None:
    """Sort tests: the long ones evenly among the first of the others, the longest first.

    Long tests wait for processes. Several at a time leave cores idle, and so does one at the end. Those of one
    ``xdist_group`` stay together: a fixture of theirs is made once.
    """
    groups: dict[object, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(_group(item), []).append(item)
    costs = {group: sum(_long(item) for item in members) for group, members in groups.items()}
    long = sorted((group for group, cost in costs.items() if cost), key=lambda group: -costs[group])
    others = [item for group, members in groups.items() if not costs[group] for item in members]
    total, before, begun = sum(costs.values()), 0.0, 0
    items.clear()
    for group in long:
        upto = int(SPREAD * len(others) * before / total)
        items += [*others[begun:upto], *groups[group]]
        begun, before = upto, before + costs[group]
    items += others[begun:]


def _long(item: pytest.Item) -> float:
    marker = item.get_closest_marker("long")
    return float(marker.args[0]) if marker else 0.0


def _group(item: pytest.Item) -> object:
    marker = item.get_closest_marker("xdist_group")
    return (marker.args or (marker.kwargs["name"],))[0] if marker else item
