"""Memory between steps is kept where glibc is, and nothing is asked of another library."""

import ctypes
from types import SimpleNamespace

import pytest

from capsule_lightning.kernels import heap


@pytest.mark.parametrize(
    ("platform", "accepted", "kept"), [("linux", 1, True), ("linux", 0, False), ("darwin", 1, False)]
)
def test_it_is_said_whether_memory_is_kept(
    platform: str, accepted: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[int, int] = {}

    def mallopt(name: int, value: int) -> int:
        asked[name] = value
        return accepted

    monkeypatch.setattr(heap.sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert heap.keep_heap() is kept
    if kept:
        assert asked == {-4: 0, -1: 2**31 - 1, -2: 2**26}  # M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD of <malloc.h>
    assert bool(asked) == (platform == "linux")


def test_without_glibc_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not heap.keep_heap()
