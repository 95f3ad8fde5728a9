"""Profile a training step, the plain one and the package's, under torch.profiler after a warm-up.

Prints the operations that take the most time by themselves, and writes the same tables beside the JSON file, as text.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from measure import (
    PRECISIONS,
    Workload,
    add_compile,
    add_config,
    add_turns,
    config_words,
    parser,
    positive,
    prepare,
    setting,
    timed,
    write,
)
from plain import PlainStep
from step import PackageStep
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile


def profiled(workload: Workload, arguments: argparse.Namespace) -> tuple[EventList, float]:
    """Return the operations of ``--repeats`` steps, and milliseconds per step without the profiler."""
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    workload.load(device)
    step = workload.build(device)
    timed(step, arguments.warmup, device)
    milliseconds, _ = timed(step, arguments.repeats, device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as found:
        timed(step, arguments.repeats, device)
    return found.key_averages(), milliseconds


def rows(events: EventList, steps: int) -> list[dict[str, Any]]:
    """Return calls and milliseconds per step of each operation by itself, the longest first."""
    found = [
        {
            "name": event.key,
            "calls": event.count / steps,
            "cpu_ms": event.self_cpu_time_total / 1000 / steps,
            "device_ms": event.self_device_time_total / 1000 / steps,
        }
        for event in events
    ]
    return sorted(found, key=lambda row: -max(row["cpu_ms"], row["device_ms"]))


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("profile_step", __doc__)
    add_turns(parsed, repeats=3, warmup=3)
    add_config(parsed)
    add_compile(parsed)
    parsed.add_argument("--batch_size", type=positive, default=128, help="images a step (default: %(default)s)")
    parsed.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=["32-true", "bf16-mixed"], help="default: both"
    )
    parsed.add_argument("--rows", type=positive, default=25, help="operations in a table (default: %(default)s)")
    return parsed


def main() -> None:
    """Profile, print and write tables and JSON."""
    arguments = options().parse_args()
    prepare(setting(arguments))
    workloads: dict[str, Workload] = {"plain": PlainStep(arguments.batch_size)} | {
        precision: PackageStep(config_words(arguments), arguments.batch_size, precision, arguments.compile)
        for precision in arguments.precision
    }
    results, tables = {}, []
    for name, workload in workloads.items():
        events, milliseconds = profiled(workload, arguments)
        operations = rows(events, arguments.repeats)
        total = {of: sum(row[of] for row in operations) for of in ("cpu_ms", "device_ms")}
        results[name] = {"ms": milliseconds, **total, "operations": operations[: arguments.rows]}
        by = "self_device_time_total" if arguments.device == "cuda" else "self_cpu_time_total"
        table = events.table(sort_by=by, row_limit=arguments.rows, max_name_column_width=60)
        tables.append(f"{name}: {milliseconds:.2f} ms a step; {arguments.repeats} steps profiled\n{table}")
        print(tables[-1], flush=True)
    write(arguments, results)
    arguments.out.with_suffix(".txt").write_text("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
