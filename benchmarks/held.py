"""The memory that tensors hold at once on the CPU, counted block by block.

A process takes more than its tensors: what libraries keep for their threads, pages of their code, and what the
allocator has not given back. That differs from machine to machine; what the tensors hold does not.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def most_held(run: Callable[[], object]) -> int:
    """Return the most bytes that tensors which a function makes on the CPU hold at once.

    Args:
        run: the function; what it returns is let go.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    return max(accumulate(size for _, size in changes), default=0)
