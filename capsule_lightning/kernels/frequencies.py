"""A convolution as products of frequencies: its phases, their small Fourier transforms, and what they cost.

A stride of s splits image and kernel into s x s phases, each a correlation with stride 1, and the convolution is the
sum of these. ``T`` outputs and ``K`` taps along an axis touch ``T + K - 1`` positions; in a discrete Fourier transform
of that length no output meets the wrap-around, so a correlation is, at each frequency, a product of numbers, or with
channels of matrices. Of the frequencies of real numbers nearly half are the conjugates of others. The 9x9 kernels of
Sabour et al. 2017, with stride 2 and 6x6 outputs, take 537 products of matrices this way, and the plain sum 2,916.

Transforms are so short that they are products with fixed matrices, too.

Index letters: ``f`` frequencies, ``p`` rows of an image's frequency, ``b`` images, ``c`` and ``o`` channels in and out.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from math import ceil, pi, prod
from typing import NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int]
"""Rows and columns."""

MOST_OUTPUTS = 12
"""Outputs along an axis that one transform makes; more are divided, because transforms grow with the fourth power."""
TRANSFORMS_COST = 2.0
"""How many multiply-adds of products of frequencies take as long as one of transforms, whose matrices are thin."""


class Form(NamedTuple):
    """A correlation as products: matrices from positions and taps to frequencies, and from products to outputs.

    A transform is as long as what it transforms, or longer, as if zeros followed.

    Each frequency has Q products of numbers of an image with factors of the kernel. If a complex product is made of
    three real ones, the numbers are the real part, the imaginary part and their sum; a frequency that is its own
    conjugate has the first alone. If of four, both parts are one number of P = 2 rows, which Q = 2 factors multiply.

    Attributes:
        from_positions: of three products, ``(F + F - alone, positions)``: all real parts, then the imaginary parts that
            there are; of four, ``(F * 2, positions)``, both parts of each frequency together.
        from_taps: ``(Q, F, taps)``.
        to_outputs: ``(outputs, Q, F, P)``.
        alone: how many frequencies are their own conjugates; they come first.
        scale: what the outputs are to be multiplied by; the same for all phases of a tile.
    """

    from_positions: Tensor
    from_taps: Tensor
    to_outputs: Tensor
    alone: int
    scale: float


class Phase(NamedTuple):
    """One phase of the convolution of one tile of outputs.

    Attributes:
        offset: its first tap.
        taps: rows and columns of its taps, which are a stride apart in the kernel.
        positions: rows and columns of the pixels that it sees, which are a stride apart in the image.
    """

    offset: Size
    taps: Size
    positions: Size


class Tile(NamedTuple):
    """Outputs that are made together.

    Attributes:
        rows: their rows in the map of outputs.
        columns: their columns.
        phases: the phases of their convolution.
    """

    rows: slice
    columns: slice
    phases: tuple[Phase, ...]

    @property
    def outputs(self) -> Size:
        """Number of rows and columns."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def lengths(self) -> Size:
        """Rows and columns of the transforms: what the phase with the most positions needs."""
        rows, columns = (max(phase.positions[axis] for phase in self.phases) for axis in (0, 1))
        return rows, columns

    def first_pixel(self, phase: Phase, stride: Size) -> Size:
        """Return the first of the pixels that a phase sees."""
        return self.rows.start * stride[0] + phase.offset[0], self.columns.start * stride[1] + phase.offset[1]


@cache
def tiles_of(outputs: Size, kernel: Size, stride: Size) -> tuple[Tile, ...]:
    """Divide a map of outputs into as few tiles as `MOST_OUTPUTS` allows, of about equal size."""
    return tuple(
        Tile(rows, columns, _phases((rows.stop - rows.start, columns.stop - columns.start), kernel, stride))
        for rows, columns in product(*map(_parts, outputs))
    )


def _parts(count: int) -> list[slice]:
    number = ceil(count / MOST_OUTPUTS)
    return [slice(count * n // number, count * (n + 1) // number) for n in range(number)]


def _phases(outputs: Size, kernel: Size, stride: Size) -> tuple[Phase, ...]:
    found = []
    first_rows, first_columns = (range(min(s, k)) for s, k in zip(stride, kernel, strict=True))
    for offset in product(first_rows, first_columns):
        rows, columns = (ceil((k - o) / s) for k, o, s in zip(kernel, offset, stride, strict=True))
        found.append(Phase(offset, (rows, columns), (outputs[0] + rows - 1, outputs[1] + columns - 1)))
    return tuple(found)


def largest_transform(outputs: Size, kernel: Size, stride: Size) -> int:
    """Return how many positions the largest transform of a convolution has; 0 if it has no outputs."""
    return max(
        (prod(phase.positions) for tile in tiles_of(outputs, kernel, stride) for phase in tile.phases), default=0
    )


@cache
def relative_work(batch: int, channels: Size, outputs: Size, kernel: Size, stride: Size) -> float:
    """Return the multiply-adds of a training step by frequencies, divided by those of the plain sum.

    Those of transforms are weighed by `TRANSFORMS_COST`. A step has three products of frequencies (for outputs,
    gradients of maps and of weights); it transforms positions and outputs twice, and taps three times.

    Args:
        batch: images.
        channels: channels in and out.
        outputs: rows and columns of the output.
        kernel: rows and columns of the kernel.
        stride: stride along both.
    """
    inward, outward = channels
    products = transforms = 0
    for tile in tiles_of(outputs, kernel, stride):
        for phase in tile.phases:
            bins, alone = _independent_bins(phase.positions)
            rank = 3 * len(bins) - 2 * alone
            products += 3 * rank * batch * inward * outward
            transforms += 2 * batch * inward * prod(phase.positions) ** 2
            transforms += rank * (2 * batch * outward * prod(tile.outputs) + 3 * inward * outward * prod(phase.taps))
    return (products + TRANSFORMS_COST * transforms) / (3 * batch * inward * outward * prod(outputs) * prod(kernel))


@cache
@torch.inference_mode(False)
def form_of(phase: Phase, outputs: Size, lengths: Size, three: bool, dtype: torch.dtype) -> Form:
    """Return the form of a phase.

    Args:
        phase: the phase.
        outputs: rows and columns of the tile.
        lengths: rows and columns of its transforms.
        three: whether a complex product is made of three real ones, which are fewer multiply-adds; otherwise of four,
            which lose fewer digits and, in half precision, have fewer matrices to lay out.
        dtype: dtype of the matrices.

    Source: the convolution theorem for finite sequences; three products for a complex one are those of Gauss.
    """
    bins, alone = _independent_bins(lengths)
    real, imaginary = _waves(bins, phase.positions, lengths)
    # the conjugate of a kernel's spectrum makes a correlation of the convolution
    cosine_of_taps, sine_of_taps = _waves(-bins, phase.taps, lengths)
    weight = torch.full((len(bins), 1), 2, dtype=torch.float64, device="cpu")  # conjugates stand for two
    weight[:alone] = 1
    cosine, sine = ((weight * part).T for part in _waves(bins, outputs, lengths))
    rows = 1 if three else 2
    if three:
        from_positions = torch.cat([real, imaginary[alone:]])
        factors = [sine_of_taps - cosine_of_taps, sine_of_taps + cosine_of_taps, cosine_of_taps]
        back = [sine, -cosine, cosine + sine]
        factors[0][:alone], back[0][:, :alone] = cosine_of_taps[:alone], cosine[:, :alone]
    else:
        from_positions = torch.stack([real, imaginary], dim=1).flatten(0, 1)
        factors = [cosine_of_taps, sine_of_taps]
        back = [torch.stack(pair, dim=2) for pair in ((cosine, sine), (sine, -cosine))]
    from_taps, to_outputs = (
        torch.stack(factors),
        torch.stack(back, dim=1).view(prod(outputs), -1, len(bins), rows),
    )
    count = prod(lengths)
    if dtype != torch.bfloat16:
        return Form(from_positions.to(dtype), from_taps.to(dtype), (to_outputs / count).to(dtype), alone, 1.0)
    enlarged = _nearly_representable(from_positions, dtype)
    from_positions, from_taps, to_outputs = (
        (enlarged * matrix).to(dtype) for matrix in (from_positions, from_taps, to_outputs)
    )
    return Form(from_positions, from_taps, to_outputs, alone, 1 / (count * enlarged**3))


def _nearly_representable(waves: Tensor, dtype: torch.dtype) -> float:
    """Return a factor by which numbers lose least when they are rounded to a dtype.

    Waves of few points consist of few numbers, so in half precision some factors make all of them nearly representable.
    """
    values = torch.unique(waves.abs().round(decimals=12))
    factors = torch.linspace(1, 2, 257, dtype=torch.float64, device="cpu")[:-1, None]
    enlarged = factors * values
    return float(factors[((enlarged.to(dtype) - enlarged) / factors).square().sum(dim=1).argmin()])


@cache
def _independent_bins(lengths: Size) -> tuple[Tensor, int]:
    """Return frequencies ``(f, 2)`` of real numbers of which none is the conjugate of another.

    Those that are their own conjugates come first; their number is returned, too.
    """
    alone: list[Size] = []
    pairs: list[Size] = []
    for each in product(range(lengths[0]), range(lengths[1])):
        conjugate = (-each[0] % lengths[0], -each[1] % lengths[1])
        if each <= conjugate:
            (alone if each == conjugate else pairs).append(each)
    return torch.tensor(alone + pairs, device="cpu"), len(alone)


def _waves(bins: Tensor, size: Size, lengths: Size) -> tuple[Tensor, Tensor]:
    """Return real and imaginary parts of ``exp(-2 pi i f . r / N)``, ``(f, rows * columns)`` each, in float64."""
    rows, columns = (
        (bins[:, axis, None] * torch.arange(size[axis], device="cpu") % lengths[axis]).double() / lengths[axis]
        for axis in (0, 1)
    )
    angles = -2 * pi * (rows[:, :, None] + columns[:, None, :]).flatten(1)
    return angles.cos(), angles.sin()
