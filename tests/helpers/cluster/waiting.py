"""Waits for conditions, and for no longer than they need."""

import time
from collections.abc import Callable


def until(what: Callable[[], bool], name: str, seconds: float = 120) -> None:
    """Wait until something holds; fails where it never does."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"never: {name}"
        time.sleep(0.1)
