"""Measure networks and routings of papers beside plain forms of what their authors' code computes, in turns.

Each is run forwards and backwards, as in a training step, without loss, optimizer and decoder, which are the same for
both: a network from images to the activations of its class capsules, a layer from random children to its parents, with
the gradients of the children. `plain_forms` holds the plain ones, in float32; ours are built from the shipped configs.
Each pair runs in two fresh processes that take turns. The results are milliseconds, peak memory above the runtime, the
ratios of both, and the operations that take most of our time. They are written after each pair: called again with the
same options at the same commit, it goes on.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from typing import Any

import torch
from measure import (
    PRECISIONS,
    Step,
    Worker,
    Workload,
    add_inner,
    add_turns,
    autocast,
    earlier,
    inner,
    interleave,
    memory_ratio,
    parser,
    positive,
    ratio,
    setting,
    spread,
    start,
    write,
)
from plain_forms.pairs import FORMS, PAIRS
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from typing_extensions import override

OPERATIONS = 8
"""Operations that the results name."""


class ZooStep(Workload):
    """Forward and backward of one form of a pair.

    Args:
        name: a key of `PAIRS`.
        form: ``plain`` or ``ours``.
        batch_size: images in a step; None for that of the pair.
        precision: of ours, as for the trainer; the plain form is in float32.
    """

    def __init__(self, name: str, form: str, batch_size: int | None, precision: str) -> None:
        self.name, self.form = name, form
        self.batch_size = batch_size or PAIRS[name].batch_size
        self.precision = precision if form == "ours" else "32-true"

    @override
    def load(self, device: torch.device) -> None:
        """Import what builds the network, which does not count as memory."""
        if self.form == "ours":
            PAIRS[self.name].ours()

    @override
    def build(self, device: torch.device) -> Step:
        pair = PAIRS[self.name]
        net = (pair.ours if self.form == "ours" else pair.plain)().to(device).train()
        self.parameters = sum(parameter.numel() for parameter in net.parameters())
        inputs = [each.detach().to(device).requires_grad_(pair.is_layer) for each in pair.inputs(self.batch_size)]
        upstream: list[Tensor] = []

        def step() -> None:
            net.zero_grad()
            for each in inputs:
                each.grad = None
            with autocast(device, self.precision):
                outputs = [each for each in pair.outputs(self.form, net, inputs) if each.requires_grad]
            if not upstream:
                upstream.extend(torch.randn_like(each) / each.numel() for each in outputs)
            torch.autograd.backward(outputs, upstream)

        self.step = step
        return step

    @override
    def facts(self) -> dict[str, Any]:
        """Return the number of parameters, and the shares of the operations that take most of a step's time."""
        with profile(activities=[ProfilerActivity.CPU]) as found:
            self.step()
        events = (event for event in found.key_averages() if event.key.startswith("aten::"))
        spent = {event.key: event.self_cpu_time_total for event in events}
        longest = sorted(spent, key=lambda name: -spent[name])[:OPERATIONS]
        total = sum(spent.values())
        return {"parameters": self.parameters, "operations": {name: spent[name] / total for name in longest}}


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the times and memory of both forms of a pair, and their ratios."""
    with ExitStack() as session:  # fresh processes, whose peaks are their own
        workers = {form: session.enter_context(Worker(setting(arguments))) for form in FORMS}
        start(workers, {form: ZooStep(name, form, arguments.batch_size, arguments.precision) for form in FORMS})
        times = interleave(workers, arguments.repeats, arguments.warmup, inner(arguments))
        found: dict[str, Any] = {
            form: {"ms": spread(times[form]), **worker.summary()} for form, worker in workers.items()
        }
    return {
        "batch_size": arguments.batch_size or PAIRS[name].batch_size,
        **found,
        "time_ratio": ratio(times["ours"], times["plain"]),
        "memory_ratio": memory_ratio(found["ours"]["peak_mib"], found["plain"]["peak_mib"]),
    }


def row(name: str, found: dict[str, Any]) -> str:
    """Return a row of the table."""
    ms, time_ratio = [f"{found[form]['ms']['median']:,.0f}" for form in FORMS], found["time_ratio"]
    relative = f"{time_ratio['median']:.2f} ({time_ratio['q1']:.2f} to {time_ratio['q3']:.2f})"
    memory = "| |"
    if found["memory_ratio"] is not None:
        peaks = [f"{found[form]['peak_mib']:,.0f}" for form in FORMS]
        memory = f"| {peaks[0]} to {peaks[1]} | {found['memory_ratio']:.2f} |"
    operations = list(found["ours"]["operations"].items())[:3]
    spent = ", ".join(f"{operation.removeprefix('aten::')} {100 * share:.0f} %" for operation, share in operations)
    return f"| {name} | {found['batch_size']} | {ms[0]} to {ms[1]} | {relative} {memory} {spent} |"


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("zoo", __doc__)
    add_turns(parsed, repeats=7, warmup=1)
    add_inner(parsed)
    parsed.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS), help="default: all")
    parsed.add_argument("--batch_size", type=positive, help="images in a step (default: a number for each pair)")
    parsed.add_argument("--precision", choices=PRECISIONS, default="32-true", help="of ours (default: %(default)s)")
    parsed.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no other pair after so many (default: no end)"
    )
    return parsed


def main() -> None:
    """Measure, print the table, write the JSON after each pair."""
    arguments = options().parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    found: dict[str, Any] = earlier(arguments, besides=("minutes", "pairs"))
    print("| pair | batch | ms, plain to ours | ratio (quartiles) | MiB, plain to ours | ratio | most of ours |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.pairs:
        if name not in found:
            if time.monotonic() > end:
                print(f"{name} is left: call it again to go on", flush=True)
                continue
            found[name] = measure(name, arguments)
            write(arguments, found, told=False)
        print(row(name, found[name]), flush=True)


if __name__ == "__main__":
    main()
