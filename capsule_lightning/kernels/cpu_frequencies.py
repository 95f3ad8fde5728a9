"""A convolution by products of frequencies on the CPU, forwards and backwards; see `frequencies`.

What is kept of the images for the backward pass is their spectrum, and its gradient overwrites it. The spectra of
kernel and products are larger than what they are made of, so they are formed for some frequencies at a time. Transforms
and sums are in the dtype of the weight; products are in that of the spectrum, which may be bfloat16, and numbers are
rounded to it in the cache, on their way to memory.

Positions are ``(positions, b, C)``, a spectrum ``(F * P, B, C)``, taps ``(taps, O * C)``, outputs ``(outputs, B * O)``:
what is transformed comes first, so that every transform is one product of matrices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from capsule_lightning.kernels.frequencies import Form, Phase, Size, Tile, form_of, tiles_of

_MOST_NUMBERS = 2**22  # in the spectrum of a kernel, and in some positions: 16 MiB in float32
_COLUMNS = 2**11  # of a transform at a time: the rows of 8 KiB stay in the cache


class Maps(ABC):
    """The maps that are convolved, read some positions of some images at a time, and where their gradient goes.

    Attributes:
        batch: number of images, B.
        channels: channels, C.
        width: numbers that it takes to read one position.
    """

    batch: int
    channels: int
    width: int

    @abstractmethod
    def read(self, tile: Tile, phase: Phase, images: slice) -> Tensor:
        """Return the positions of a phase, ``(positions, b, C)``, in any floating dtype."""

    @abstractmethod
    def take_gradient(self, tile: Tile, phase: Phase, images: slice, gradient: Tensor) -> None:
        """Take the gradient of the positions that `read` returned; it may be overwritten."""


class FrequencyConvolution:
    """A convolution without padding.

    Args:
        weight: ``(O, C, K, L)``.
        stride: stride along rows and columns.
        size: rows and columns of the maps.
        products: dtype of the products.
    """

    def __init__(self, weight: Tensor, stride: Size, size: Size, products: torch.dtype) -> None:
        self.weight, self.stride, self.products = weight, stride, products
        kernel = weight.shape[2], weight.shape[3]
        rows, columns = ((n - k) // s + 1 for n, k, s in zip(size, kernel, stride, strict=True))
        self.outputs = rows, columns
        self.tiles = tiles_of(self.outputs, kernel, stride)

    def forward(self, maps: Maps, bias: Tensor | None, keep: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Return ``(B, O, rows, columns)``, and if they are to be kept the spectra that it was made of."""
        found = self.weight.new_zeros(*self.outputs, maps.batch, len(self.weight))
        places, kept = taps_by_place(self.weight), []
        for tile in self.tiles:
            part = found[tile.rows, tile.columns]
            outputs = part.flatten(0, 1).flatten(1)  # a view if it can be one
            for phase in tile.phases:
                form, spectrum = self.spectrum(maps, tile, phase)
                add_products(form, spectrum, self.taps(places, phase), outputs)
                if keep:
                    kept.append(spectrum)
            if outputs.data_ptr() != part.data_ptr():
                part.copy_(outputs.view_as(part))
        if bias is not None:
            found += bias
        return found.permute(2, 3, 0, 1), kept

    def backward(
        self, maps: Maps, grad: Tensor, kept: list[Tensor], of_weight: bool = True, of_maps: bool = True
    ) -> Tensor | None:
        """Give the maps their gradient and return that of the weight.

        Args:
            maps: as they were in the forward pass.
            grad: gradient of the outputs, ``(B, O, rows, columns)``.
            kept: the spectra, which are used up; an empty list to form them again.
            of_weight, of_maps: whether these gradients are wanted.
        """
        grad = grad.to(self.weight.dtype).permute(2, 3, 0, 1)
        places = taps_by_place(self.weight)
        total = torch.zeros_like(places) if of_weight else None
        again = not kept
        for tile in reversed(self.tiles):
            of_outputs = grad[tile.rows, tile.columns].flatten(0, 1).flatten(1)
            for phase in reversed(tile.phases):
                form = self.form(phase)
                spectrum = self.spectrum(maps, tile, phase)[1] if again else kept.pop()
                taps = self.taps(places, phase)
                of_taps = None if total is None else torch.zeros_like(taps)
                add_gradients(form, spectrum, taps, of_outputs, of_taps, of_maps)
                if total is not None and of_taps is not None:
                    _of_phase(total, phase, self.stride).add_(of_taps.view(*phase.taps, -1))
                for images in self.images(maps, phase) if of_maps else ():
                    maps.take_gradient(tile, phase, images, read_gradient(form, spectrum[:, images]))
        return None if total is None else weight_of_places(total, self.weight.shape)

    def form(self, phase: Phase) -> Form:
        """Return the form of a phase: three products for a complex one in full precision, four in half."""
        return form_of(phase, self.products == self.weight.dtype, self.weight.dtype)

    def spectrum(self, maps: Maps, tile: Tile, phase: Phase) -> tuple[Form, Tensor]:
        """Return form and spectrum of a phase of the maps."""
        form = self.form(phase)
        spectrum = torch.empty(len(form.from_positions), maps.batch, maps.channels, dtype=self.products)
        for images in self.images(maps, phase):
            write_spectrum(form, maps.read(tile, phase, images), spectrum[:, images])
        return form, spectrum

    def images(self, maps: Maps, phase: Phase) -> Iterator[slice]:
        """Yield the images in blocks whose positions are quickly read again."""
        most = max(1, _MOST_NUMBERS // (prod(phase.positions) * maps.width))
        for first in range(0, maps.batch, most):
            yield slice(first, min(first + most, maps.batch))

    def taps(self, places: Tensor, phase: Phase) -> Tensor:
        """Return the taps of a phase."""
        return _of_phase(places, phase, self.stride).reshape(-1, places.shape[2])


def write_spectrum(form: Form, positions: Tensor, spectrum: Tensor) -> None:
    """Transform the positions of some images into their part ``(F * P, b, C)`` of a spectrum."""
    _multiply(form.from_positions, positions.flatten(1), spectrum.view(len(spectrum), -1))


def read_gradient(form: Form, spectrum: Tensor) -> Tensor:
    """Return the gradient of the positions of some images, from the part ``(F * P, b, C)`` of that of the spectrum."""
    back = form.from_positions.t()
    found = back.new_empty(len(back), *spectrum.shape[1:])
    _multiply(back, spectrum.view(len(spectrum), -1), found.view(len(back), -1))
    return found


def add_products(form: Form, spectrum: Tensor, taps: Tensor, outputs: Tensor) -> None:
    """Add to the outputs what a phase contributes."""
    for part in _frequencies(form, taps):
        images, rows = _matrices(form, spectrum, part)
        for from_taps, to_outputs in zip(form.from_taps, form.to_outputs, strict=True):
            products = images @ _factors(from_taps[part], taps, images).mT
            _add(to_outputs[:, rows], products.view(rows.stop - rows.start, -1), outputs)


def add_gradients(
    form: Form, spectrum: Tensor, taps: Tensor, of_outputs: Tensor, of_taps: Tensor | None, of_maps: bool
) -> None:
    """Add the gradient of the taps of a phase, and overwrite its spectrum by the gradient.

    Args:
        form, spectrum, taps: as they were for `add_products`.
        of_outputs: gradient of the outputs.
        of_taps: what is added to, if anything.
        of_maps: whether the gradient of the spectrum is wanted.
    """
    for part in _frequencies(form, taps):
        images, rows = _matrices(form, spectrum, part)
        pairs = []
        for from_taps, to_outputs in zip(form.from_taps, form.to_outputs, strict=True):
            of_products = images.new_empty(*images.shape[:2], of_outputs.shape[1] // spectrum.shape[1])
            _multiply(to_outputs[:, rows].t(), of_outputs, of_products.view(rows.stop - rows.start, -1))
            if of_taps is not None:
                of_factors = of_products.mT @ images
                _add(from_taps[part].t(), of_factors.view(len(of_factors), -1), of_taps)
            if of_maps:
                pairs.append((of_products, _factors(from_taps[part], taps, images)))
        for number, pair in enumerate(pairs):
            images.baddbmm_(*pair, beta=int(number > 0))


def taps_by_place(weight: Tensor) -> Tensor:
    """Return a weight ``(O, C, K, L)`` as ``(K, L, O * C)``, by a plain transposition, which a CPU is fastest at."""
    size = weight.shape[2:]
    return weight.reshape(-1, prod(size)).t().contiguous().view(*size, -1)


def weight_of_places(places: Tensor, shape: torch.Size) -> Tensor:
    """Return the weight of this shape that `taps_by_place` was given."""
    return places.view(prod(shape[2:]), -1).t().contiguous().view(shape)


def _of_phase(places: Tensor, phase: Phase, stride: Size) -> Tensor:
    """Return a view of the part of ``(K, L, ...)`` that belongs to a phase."""
    return places[phase.offset[0] :: stride[0], phase.offset[1] :: stride[1]]


def _frequencies(form: Form, taps: Tensor) -> Iterator[slice]:
    """Yield the frequencies of a form in parts, in which the spectrum of the kernel is small."""
    count, most = len(form.from_taps[0]), max(1, _MOST_NUMBERS // max(1, taps.shape[1]))
    for first in range(0, count, most):
        yield slice(first, min(first + most, count))


def _matrices(form: Form, spectrum: Tensor, part: slice) -> tuple[Tensor, slice]:
    """Return some frequencies of a spectrum as matrices ``(f, P * B, C)``, and which rows they are."""
    each = len(form.from_positions) // len(form.from_taps[0])
    rows = slice(part.start * each, part.stop * each)
    return spectrum[rows].view(part.stop - part.start, -1, spectrum.shape[2]), rows


def _factors(from_taps: Tensor, taps: Tensor, images: Tensor) -> Tensor:
    """Return some frequencies of a kernel, ``(f, O, C)``, in the dtype of those of images ``(f, P * B, C)``."""
    found = images.new_empty(len(from_taps), taps.shape[1])
    _multiply(from_taps, taps, found)
    return found.view(len(from_taps), -1, images.shape[2])


def _multiply(matrix: Tensor, columns: Tensor, out: Tensor) -> None:
    """Set ``out (m, n)`` to the product of ``matrix (m, k)`` and ``columns (k, n)``, which may be of other dtypes."""
    for source, target in zip(columns.split(_COLUMNS, dim=1), out.split(_COLUMNS, dim=1), strict=True):
        if source.dtype == target.dtype == matrix.dtype:
            torch.mm(matrix, source, out=target)
        else:
            target.copy_(matrix @ source.to(matrix.dtype))


def _add(matrix: Tensor, columns: Tensor, total: Tensor) -> None:
    """Add to ``total (m, n)`` the product of ``matrix (m, k)`` and ``columns (k, n)``, perhaps of another dtype."""
    for source, target in zip(columns.split(_COLUMNS, dim=1), total.split(_COLUMNS, dim=1), strict=True):
        target.addmm_(matrix, source.to(matrix.dtype))
