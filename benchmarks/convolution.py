"""Measure a convolution by products of frequencies beside the library's, on both sides of the law that chooses.

Both run forwards and backwards (gradients of maps, weight and bias) in one process, in turns, on the same numbers. The
results are milliseconds, their ratio, and what the law says: the relative work of `products_that_pay`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from measure import (
    PRECISIONS,
    Bench,
    Step,
    Workload,
    add_inner,
    add_turns,
    autocast,
    inner,
    interleave,
    parser,
    positive,
    ratio,
    setting,
    spread,
    write,
)
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.kernels.cpu_frequency_conv import frequency_conv2d, products_that_pay
from capsule_lightning.kernels.frequencies import relative_work

FORMS = ("library", "frequencies")


class Size(NamedTuple):
    """A convolution: its kernel, stride, outputs along a side, channels in and out."""

    kernel: int
    stride: int
    outputs: int
    channels: int

    def __str__(self) -> str:
        return f"{self.kernel}x{self.kernel} / {self.stride}, {self.outputs}x{self.outputs}, {self.channels} channels"


SIZES = [
    Size(9, 2, 6, 256),
    Size(9, 2, 6, 64),
    Size(9, 2, 6, 16),
    Size(9, 2, 12, 128),
    Size(9, 1, 12, 64),
    Size(5, 1, 12, 64),
    Size(5, 2, 8, 128),
    Size(3, 1, 12, 128),
]


class ConvolutionStep(Workload):
    """A convolution of random maps with channels innermost, forwards and backwards.

    Args:
        form: ``library`` or ``frequencies``.
        size: the convolution.
        batch_size: images.
        precision: precision, as for the trainer.
    """

    def __init__(self, form: str, size: Size, batch_size: int, precision: str) -> None:
        self.form, self.size, self.batch_size, self.precision = form, size, batch_size, precision

    @override
    def build(self, device: torch.device) -> Step:
        kernel, stride, outputs, channels = self.size
        side = (outputs - 1) * stride + kernel
        maps = torch.rand(self.batch_size, channels, side, side).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, kernel, kernel) / (kernel * channels**0.5)
        inputs = [each.requires_grad_() for each in (maps, weight, torch.zeros(channels))]
        upstream = torch.randn(self.batch_size, channels, outputs, outputs)

        def forced(maps: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int]) -> Tensor:
            products = products_that_pay(maps, (outputs, outputs), weight, stride, forced=True)
            return frequency_conv2d(maps, weight, bias, stride, products)

        convolve: Callable[..., Tensor] = forced if self.form == "frequencies" else F.conv2d

        def step() -> None:
            for each in inputs:
                each.grad = None
            with autocast(device, self.precision):
                out = convolve(*inputs, (stride, stride))
            out.backward(upstream.to(out.dtype))

        return step


def law(size: Size, batch_size: int, precision: str) -> dict[str, Any]:
    """Return the relative work of a convolution, and whether the law chooses frequencies."""
    kernel, stride, outputs, channels = size
    shape = (outputs, outputs), (kernel, kernel), (stride, stride)
    images, weight = torch.empty(batch_size, 1), torch.empty(channels, channels, kernel, kernel)
    with autocast(torch.device("cpu"), precision):
        chosen = products_that_pay(images, shape[0], weight, shape[2]) is not None
    return {"relative_work": relative_work(batch_size, (channels, channels), *shape), "chosen": chosen}


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("convolution", __doc__)
    parsed.set_defaults(device="cpu")
    add_turns(parsed, repeats=7, warmup=1)
    add_inner(parsed)
    parsed.add_argument("--batch_size", nargs="+", type=positive, default=[128, 8], help="images (default: 128 8)")
    parsed.add_argument("--precision", choices=PRECISIONS, default="32-true", help="default: %(default)s")
    parsed.add_argument(
        "--sizes",
        nargs="+",
        type=lambda word: Size(*map(positive, word.split(","))),
        default=SIZES,
        metavar="KERNEL,STRIDE,OUTPUTS,CHANNELS",
        help="convolutions (default: eight)",
    )
    return parsed


def main() -> None:
    """Measure, print the table, write the JSON."""
    arguments = options().parse_args()
    benches = {form: Bench(setting(arguments)) for form in FORMS}
    found = []
    print(f"{'':40}{'library ms':>11}{'frequencies':>12}{'ratio (quartiles)':>24}{'work':>7}  chosen")
    for batch_size in arguments.batch_size:
        for size in arguments.sizes:
            for form, bench in benches.items():
                bench.start(ConvolutionStep(form, size, batch_size, arguments.precision))
            times = interleave(benches, arguments.repeats, arguments.warmup, inner(arguments))
            relative, expected = (
                ratio(times["frequencies"], times["library"]),
                law(size, batch_size, arguments.precision),
            )
            ms = {form: spread(times[form]) for form in FORMS}
            found.append({**size._asdict(), "batch_size": batch_size, "ms": ms, "ratio": relative, **expected})
            text = f"{relative['median']:.2f} ({relative['q1']:.2f} to {relative['q3']:.2f})"
            print(
                f"{f'{size}, {batch_size} images':40}{ms['library']['median']:11.1f}{ms['frequencies']['median']:12.1f}"
                f"{text:>24}{expected['relative_work']:7.2f}  {'yes' if expected['chosen'] else 'no'}",
                flush=True,
            )
    write(arguments, found)


if __name__ == "__main__":
    main()
