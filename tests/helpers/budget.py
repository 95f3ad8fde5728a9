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
SLACK = 2.5
"""A machine whose cores are shared needs more processor time for the same work; twice as much has been seen."""


def cpu_seconds() -> float:
    """Return the processor time of this process, of its children that have ended, and of the forked programs."""
    own = sum(os.times()[:4])
    forked = sys.modules.get("forked")
    return own + (forked.cpu_seconds() if forked else 0.0)


RESIDENT = 850 * 2**20
"""Bytes of a worker above which it gives back what the test before has left; imports alone take two thirds of it."""


def give_memory_back() -> None:
    """Free cycles, and what the allocator holds: training keeps the heap, so that a worker would only ever grow."""
    with suppress(OSError, AttributeError):  # not Linux, not glibc
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") > RESIDENT:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)


def allowed(item: pytest.Item) -> float:
    """Return the processor time in seconds that a test may take; infinite outside the default tier."""
    if item.get_closest_marker("nightly") or item.get_closest_marker("slow"):
        return float("inf")
    marker = item.get_closest_marker("long")
    return SLACK * (marker.args[0] if marker else SECONDS)


def longest_first(items: list[pytest.Item]) -> None:
    """Sort tests by what they and the others of their ``xdist_group`` may cost, so that no core idles at the end."""
    costs: dict[object, float] = {}
    for item in items:
        marker = item.get_closest_marker("long")
        costs[_group(item)] = costs.get(_group(item), 0.0) + (marker.args[0] if marker else 0.0)
    items.sort(key=lambda item: -costs[_group(item)])


def _group(item: pytest.Item) -> object:
    marker = item.get_closest_marker("xdist_group")
    return (marker.args or (marker.kwargs["name"],))[0] if marker else item
