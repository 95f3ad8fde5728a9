"""What a piece of work holds in memory at once, as the allocator counts it: the same in every run."""

import json
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object], folder: Path) -> int:
    """Return the most bytes that tensors on the CPU take in ``work``, beyond those that are there before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    found.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    held = most = 0
    for event in sorted((each for each in events if each.get("name") == "[memory]"), key=lambda each: each["ts"]):
        if event["args"]["Device Type"] == 0:
            held += event["args"]["Bytes"]
            most = max(most, held)
    return most
