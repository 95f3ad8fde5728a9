"""Measure how time and memory of a step grow, for votes that are stored and votes that are fused with routing.

A step is forward and backward: of the paper's routed layer (1152 children, 10 parents, 8 to 16 dimensions, 3
iterations) as batch, children, parents or iterations grow, and of its network without decoder as the image grows.
``plain`` stores the votes (backend ``torch``), ``fused`` forgets them as soon as they are formed (``auto``: in C if the
layer is large enough and its parents are few enough, or else those of some examples at a time). Beside what is measured
stands the law: products that are computed, numbers that are stored. Each form runs in a process of its own, in turns
with the other. The results are written after each size: called again with the same options at the same commit, it goes
on. The picture is written beside the JSON.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from math import ceil
from typing import Any, NamedTuple

import torch
from growth_picture import draw
from measure import (
    MIB,
    Step,
    Worker,
    Workload,
    add_inner,
    add_turns,
    begin_peak,
    earlier,
    inner,
    interleave,
    memory_ratio,
    parser,
    ratio,
    setting,
    spread,
    start,
    write,
)
from torch import nn
from typing_extensions import override

FORMS = {"plain": "torch", "fused": "auto"}
DIM_IN, DIM_OUT, TYPES, CHANNELS = 8, 16, 32, 256
LANES = 16  # numbers in a vector register


class Sizes(NamedTuple):
    """Sizes of a step: images B, children I, parents J, iterations r; side of an image, None for the layer alone."""

    batch_size: int = 128
    num_in: int = 1152
    num_out: int = 10
    iterations: int = 3
    side: int | None = None

    @classmethod
    def of_network(cls, batch_size: int, side: int) -> Sizes:
        """Return the sizes of the paper's network for images of a side."""
        return cls(batch_size, TYPES * ((side - 17) // 2 + 1) ** 2, side=side)

    def products(self) -> int:
        """Return the multiplications of a forward pass: votes, r sums, r - 1 agreements; and both convolutions."""
        votes = self.batch_size * self.num_in * self.num_out * DIM_OUT
        total = votes * (DIM_IN + 2 * self.iterations - 1)
        if self.side is not None:
            places = self.num_in // TYPES
            total += self.batch_size * CHANNELS * 81 * ((self.side - 8) ** 2 + CHANNELS * places)
        return total

    def numbers(self, form: str) -> int:
        """Return the numbers that a step holds at once.

        With votes stored, those of all B examples are there in the backward pass with two gradients, their sum and its
        copy for the last product; with one iteration, with one gradient. Fused in blocks, those of n examples are
        there. Logits, couplings and their gradients are three numbers for each pair and contraction, of which there are
        2 r - 1. Weights and their gradient are two of a size, and five where products need them in another order;
        children are there four times. Fused in C, there are no votes, logits, couplings or copies, but the sums of each
        part of the children, and weights and children with their gradients. The network has its convolutions' weights,
        gradients and maps besides.
        """
        from capsule_lightning.kernels.blocks_of_votes import examples_per_block
        from capsule_lightning.kernels.native_dynamic import children_of_part, pays

        pairs, children = self.num_in * self.num_out, self.batch_size * self.num_in * DIM_IN
        of_pair, weights = 3 * (2 * self.iterations - 1), pairs * DIM_IN * DIM_OUT
        if form == "plain":
            tensors = 2 if self.iterations == 1 else 5
            total = self.batch_size * pairs * (tensors * DIM_OUT + of_pair) + 2 * weights + 4 * children
        elif pays(self.num_in, self.num_out, DIM_OUT, DIM_IN, self.iterations):
            parts = ceil(self.num_in / children_of_part(self.num_out, DIM_OUT, DIM_IN, self.iterations, LANES))
            total = parts * self.batch_size * self.num_out * DIM_OUT + 2 * weights + 2 * children
        else:
            examples = examples_per_block(self.batch_size, pairs * DIM_OUT)
            total = examples * pairs * (DIM_OUT + of_pair) + 5 * weights + 4 * children
        if self.side is not None:
            maps = self.batch_size * CHANNELS * (self.side - 8) ** 2
            total += 2 * 81 * CHANNELS * (CHANNELS + 1) + 3 * maps
        return total


SWEEPS: dict[str, dict[int, Sizes]] = {
    "images in a batch": {n: Sizes(batch_size=n) for n in (8, 32, 128, 512)},
    "child capsules": {n: Sizes(32, num_in=n) for n in (288, 1152, 4608, 18432)},
    "parent capsules": {n: Sizes(32, num_in=288, num_out=n) for n in (10, 30, 100, 300, 1000)},
    "iterations": {n: Sizes(32, iterations=n) for n in (1, 2, 3, 5, 10)},
    "pixels along a side": {n: Sizes.of_network(8, n) for n in (28, 40, 52, 64)},
}


class GrowthStep(Workload):
    """Forward and backward of a routed layer, or of a network with it.

    Args:
        sizes: of the step.
        form: a key of `FORMS`.
    """

    def __init__(self, sizes: Sizes, form: str) -> None:
        self.sizes, self.form = sizes, form

    @override
    def load(self, device: torch.device) -> None:
        """Import the package, which does not count as memory."""
        import capsule_lightning.models.capsnet  # noqa: F401

    @override
    def build(self, device: torch.device) -> Step:
        from capsule_lightning.capsules import Capsules
        from capsule_lightning.models.capsnet import CapsNet
        from capsule_lightning.routing.dynamic import DynamicRouting

        sizes = self.sizes
        batch, num_in, num_out, iterations, side = sizes
        if side is None:
            net: nn.Module = DynamicRouting(num_in, DIM_IN, num_out, DIM_OUT, iterations=iterations)
            net.backend = FORMS[self.form]  # type: ignore[assignment]
            poses = (torch.rand(batch, num_in, DIM_IN, device=device) / DIM_IN**0.5).requires_grad_()
            inputs: Any = Capsules.from_vectors(poses)
        else:
            net = CapsNet((1, side, side), num_out, decoder=None)
            net.routing.backend = FORMS[self.form]
            poses, inputs = torch.empty(0), torch.rand(batch, 1, side, side, device=device)
        net.to(device)
        upstream = torch.randn(batch, num_out, DIM_OUT, device=device) / num_out
        begin_peak(device)  # to draw a weight takes several times its memory

        def step() -> None:
            net.zero_grad()
            poses.grad = None
            given = inputs if side is not None else Capsules(poses, inputs.activations.detach())
            net(given).poses.backward(upstream)

        return step


def measure(sizes: Sizes, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return times, memory and law of both forms, and the ratios of fused to plain."""
    with ExitStack() as session:  # fresh processes, whose peaks are their own
        workers = {form: session.enter_context(Worker(setting(arguments))) for form in FORMS}
        start(workers, {form: GrowthStep(sizes, form) for form in FORMS})
        times = interleave(workers, arguments.repeats, arguments.warmup, inner(arguments))
        peaks = {form: worker.summary()["peak_mib"] for form, worker in workers.items()}
    forms = {
        form: {"ms": spread(times[form]), "peak_mib": peaks[form], "law_mib": 4 * sizes.numbers(form) / MIB}
        for form in FORMS
    }
    return {
        **sizes._asdict(),
        "products": sizes.products(),
        **forms,
        "time_ratio": ratio(times["fused"], times["plain"]),
        "memory_ratio": memory_ratio(peaks["fused"], peaks["plain"]),
    }


def row(what: str, size: str, found: dict[str, Any]) -> str:
    """Return a row of the table."""
    relative, memory = found["time_ratio"], found["memory_ratio"]
    cells = [what, size, f"{found['products'] / 1e9:,.2f}"]
    for form in FORMS:
        each = found[form]
        peak = "" if each["peak_mib"] is None else f"{each['peak_mib']:,.0f}"
        cells += [f"{each['ms']['median']:,.0f}", f"{peak} ({each['law_mib']:,.0f})"]
    cells.append(f"{relative['median']:.2f} ({relative['q1']:.2f} to {relative['q3']:.2f})")
    return f"| {' | '.join(cells)} | {'' if memory is None else format(memory, '.2f')} |"


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("growth", __doc__)
    add_turns(parsed, repeats=5, warmup=1)
    add_inner(parsed)
    parsed.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS), help="default: all")
    parsed.add_argument("--points", type=int, default=None, help="sizes of each sweep, the smallest (default: all)")
    parsed.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no other size after so many (default: no end)"
    )
    return parsed


def main() -> None:
    """Measure, print the table, write the JSON after each size and the picture at the end."""
    arguments = options().parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    found: dict[str, dict[str, Any]] = earlier(arguments, besides=("minutes", "sweeps", "points"))
    print("| grows | to | 10^9 products | plain, ms | MiB (law) | fused, ms | MiB (law) | time | memory |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for what in arguments.sweeps:
        for size, sizes in list(SWEEPS[what].items())[: arguments.points]:
            points = found.setdefault(what, {})
            if str(size) not in points:
                if time.monotonic() > end:
                    print(f"{what}: {size} is left: call it again to go on", flush=True)
                    continue
                points[str(size)] = measure(sizes, arguments)
                write(arguments, found, told=False)
            print(row(what, f"{size:,}", points[str(size)]), flush=True)
    found = {what: points for what, points in found.items() if points}
    write(arguments, found)
    draw(found, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
