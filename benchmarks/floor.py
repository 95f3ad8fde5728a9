"""Measure what this machine can do at best, for comparison with every other figure.

Matrix products, the convolution that does most of the original network's arithmetic (256 to 256 channels, 9x9, stride
2, on 20x20) and copying memory are measured by themselves; so is the training step with uniform routing, which is
convolutions, decoder and optimizer with next to no routing: no routing algorithm can be faster than that.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from measure import (
    PRECISIONS,
    Step,
    add_config,
    add_inner,
    add_turns,
    config_words,
    inner,
    parser,
    positive,
    prepare,
    repeat,
    setting,
    spread,
    write,
)
from step import PackageStep
from torch.nn import functional as F

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Work = tuple[str, Step, float, str]
"""Name, function to repeat, amount of work in it, and the unit of 10^9 of it per second."""


def matmuls(size: int, device: torch.device) -> Iterator[Work]:
    """Return square matrix products."""
    for name, dtype in DTYPES.items():
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        out = torch.empty_like(a)
        yield f"matmul {name}", lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 2 * size**3, "GFLOP/s"


def convolutions(batch_size: int, device: torch.device) -> Iterator[Work]:
    """Return the primary convolution: forward, and forward and backward, which is three times the arithmetic."""
    flop = 2 * batch_size * (256 * 6 * 6) * (256 * 9 * 9)
    for name, dtype in DTYPES.items():
        for layout, memory_format in FORMATS.items():
            images = torch.randn(batch_size, 256, 20, 20, device=device).to(dtype, memory_format=memory_format)
            weight = (torch.randn(256, 256, 9, 9, device=device) / 144).to(dtype, memory_format=memory_format)
            images.requires_grad_()
            weight.requires_grad_()
            gradient = torch.randn_like(F.conv2d(images, weight, stride=2))

            def forward(images: torch.Tensor = images, weight: torch.Tensor = weight) -> torch.Tensor:
                with torch.no_grad():
                    return F.conv2d(images, weight, stride=2)

            def both(
                images: torch.Tensor = images, weight: torch.Tensor = weight, gradient: torch.Tensor = gradient
            ) -> None:
                torch.autograd.grad(F.conv2d(images, weight, stride=2), (images, weight), gradient)

            yield f"convolution {name} {layout} forward", forward, flop, "GFLOP/s"
            yield f"convolution {name} {layout} forward and backward", both, 3 * flop, "GFLOP/s"


def copies(mib: int, device: torch.device) -> Iterator[Work]:
    """Return the copy of a tensor; each byte counts twice, since it is read and written."""
    source = torch.zeros(mib * 2**20, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    yield "copy", lambda: target.copy_(source), 2 * source.numel(), "GB/s"


def without_routing(words: list[str], batch_size: int, device: torch.device) -> Iterator[Work]:
    """Return the training step with uniform routing; its work is counted in images."""
    for precision in PRECISIONS:
        if precision == "16-mixed" and device.type == "cpu":
            continue
        workload = PackageStep([*words, "--model.net.routing=UniformRouting"], batch_size, precision)
        workload.load(device)
        yield f"step with uniform routing {precision}", workload.build(device), batch_size * 1e9, "images/s"


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("floor", __doc__)
    add_turns(parsed, repeats=9, warmup=2)
    add_config(parsed)
    add_inner(parsed)
    parsed.add_argument(
        "--batch_size", type=positive, default=128, help="images of a convolution and of a step (default: %(default)s)"
    )
    parsed.add_argument("--matmul", type=positive, help="rows and columns (default: 2048 on the CPU, else 8192)")
    parsed.add_argument("--copy_mib", type=positive, default=512, help="MiB to copy (default: %(default)s)")
    return parsed


def main() -> None:
    """Measure, print a table, write the JSON."""
    arguments = options().parse_args()
    prepare(setting(arguments))
    device = torch.device(arguments.device)
    size = arguments.matmul or (8192 if arguments.device == "cuda" else 2048)
    results: dict[str, dict[str, Any]] = {}
    for works in (
        matmuls(size, device),
        convolutions(arguments.batch_size, device),
        copies(arguments.copy_mib, device),
        without_routing(config_words(arguments), arguments.batch_size, device),
    ):
        for name, step, work, unit in works:
            ms = spread(repeat(step, device, arguments.repeats, arguments.warmup, inner(arguments)))
            rate = work / ms["median"] / 1e6
            results[name] = {"ms": ms, "rate": rate, "unit": unit}
            print(f"{name:54}{ms['median']:10.3f} ms{rate:12,.0f} {unit}", flush=True)
    write(arguments, results)


if __name__ == "__main__":
    main()
