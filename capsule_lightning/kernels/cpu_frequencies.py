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
from itertools import accumulate, pairwise
from math import prod

import torch
from torch import Tensor

from capsule_lightning.kernels.frequencies import Form, Phase, Size, Tile, form_of, tiles_of

_MOST_FACTORS = 2**21  # numbers of the spectrum of a kernel that are there at once: 8 MiB in float32
_MOST_NUMBERS = 2**22  # of positions
_COLUMNS = 2**13  # that are converted at a time: a hundred rows of them stay in the cache


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


class Room:
    """Memory that is used again and again, because a heap in which large tensors come and go has holes.

    Args:
        dtype: dtype of all that is in it.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._memory: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor of any values, in the place of the last one of this name."""
        size = prod(shape)
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = torch.empty(size, dtype=self.dtype)
        return self._memory[name][:size].view(shape)


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
        spectra, room = self._spectra(maps, keep), Room(self.products)
        places, free = taps_by_place(self.weight), iter(spectra)
        found = [self.weight.new_zeros(prod(tile.outputs), maps.batch * len(self.weight)) for tile in self.tiles]
        for number, taps in self._phases(places):
            for tile, outputs in zip(self.tiles, found, strict=True):
                spectrum = self._fill(next(free), maps, tile, tile.phases[number])
                add_products(self._form(tile.phases[number]), spectrum, taps, outputs, room)
        whole = self.weight.new_empty(*self.outputs, maps.batch, len(self.weight))
        for tile, outputs in zip(self.tiles, found, strict=True):
            part = whole[tile.rows, tile.columns]
            part.copy_(outputs.view_as(part))
        if bias is not None:
            whole += bias
        return whole.permute(2, 3, 0, 1), spectra if keep else []

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
        of_outputs = [grad[tile.rows, tile.columns].flatten(0, 1).flatten(1) for tile in self.tiles]
        again, room = not kept, Room(self.products)
        spectra = iter(self._spectra(maps, keep=False) if again else kept.copy())
        kept.clear()
        places = taps_by_place(self.weight)
        for number, taps in self._phases(places):
            of_taps = torch.zeros_like(taps) if of_weight else None
            for tile, of_tile in zip(self.tiles, of_outputs, strict=True):
                phase, spectrum = tile.phases[number], next(spectra)
                if again:
                    self._fill(spectrum, maps, tile, phase)
                form = self._form(phase)
                add_gradients(form, spectrum, taps, of_tile, of_taps, of_maps, room)
                for images in self._images(maps, phase) if of_maps else ():
                    maps.take_gradient(tile, phase, images, read_gradient(form, spectrum[:, images]))
            if of_taps is not None:  # the taps of this phase are not needed any more
                part = _of_phase(places, self.tiles[0].phases[number], self.stride)
                part.copy_(of_taps.view_as(part))
        return weight_of_places(places, self.weight.shape) if of_weight else None

    def _phases(self, places: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of each phase and a copy of its taps."""
        for number, phase in enumerate(self.tiles[0].phases):
            yield number, _of_phase(places, phase, self.stride).reshape(-1, places.shape[2])

    def _form(self, phase: Phase) -> Form:
        """Return the form of a phase: three products for a complex one in full precision, four in half."""
        return form_of(phase, self.products == self.weight.dtype, self.weight.dtype)

    def _spectra(self, maps: Maps, keep: bool) -> list[Tensor]:
        """Return room for the spectra of all phases and tiles, all in the same place unless they are kept."""
        phases = [tile.phases[number] for number in range(len(self.tiles[0].phases)) for tile in self.tiles]
        rows = [len(self._form(phase).from_positions) for phase in phases]
        starts = [0, *accumulate(rows[:-1])] if keep else [0] * len(rows)
        whole = torch.empty(sum(rows) if keep else max(rows), maps.batch, maps.channels, dtype=self.products)
        return [whole[start : start + count] for start, count in zip(starts, rows, strict=True)]

    def _fill(self, spectrum: Tensor, maps: Maps, tile: Tile, phase: Phase) -> Tensor:
        """Return the spectrum of what a phase sees of the maps, in the room for it."""
        for images in self._images(maps, phase):
            write_spectrum(self._form(phase), maps.read(tile, phase, images), spectrum[:, images])
        return spectrum

    def _images(self, maps: Maps, phase: Phase) -> Iterator[slice]:
        """Yield the images in blocks whose positions are quickly read again."""
        most = max(1, _MOST_NUMBERS // (prod(phase.positions) * maps.width))
        for first in range(0, maps.batch, most):
            yield slice(first, min(first + most, maps.batch))


def write_spectrum(form: Form, positions: Tensor, spectrum: Tensor) -> None:
    """Transform the positions of some images into their part ``(F * P, b, C)`` of a spectrum."""
    _multiply(form.from_positions, positions.flatten(1), spectrum.view(len(spectrum), -1))


def read_gradient(form: Form, spectrum: Tensor) -> Tensor:
    """Return the gradient of the positions of some images, from the part ``(F * P, b, C)`` of that of the spectrum."""
    back = form.from_positions.t()
    found = back.new_empty(len(back), *spectrum.shape[1:])
    _multiply(back, spectrum.view(len(spectrum), -1), found.view(len(back), -1))
    return found


def add_products(form: Form, spectrum: Tensor, taps: Tensor, outputs: Tensor, room: Room) -> None:
    """Add to the outputs what a phase contributes."""
    for images, from_taps, to_outputs in _parts(form, spectrum, taps, room):
        factors = _factors(from_taps, taps, images, room)
        products = room.take("products", *factors.shape[:2], images[0].shape[1], factors.shape[2])
        for product, numbers, factor in zip(products, images, factors, strict=True):
            torch.bmm(numbers, factor.mT, out=product)
        _add(to_outputs, products.view(to_outputs.shape[1], -1), outputs)


def add_gradients(
    form: Form, spectrum: Tensor, taps: Tensor, of_outputs: Tensor, of_taps: Tensor | None, of_maps: bool, room: Room
) -> None:
    """Add the gradient of the taps of a phase, and overwrite its spectrum by the gradient.

    Args:
        form, spectrum, taps: as they were for `add_products`.
        of_outputs: gradient of the outputs.
        of_taps: what is added to, if anything.
        of_maps: whether the gradient of the spectrum is wanted.
        room: where products are made.
    """
    out, channels = of_outputs.shape[1] // spectrum.shape[1], spectrum.shape[2]
    for images, from_taps, to_outputs in _parts(form, spectrum, taps, room):
        of_products = room.take("products", len(images), *images[0].shape[:2], out)
        _multiply(to_outputs.t(), of_outputs, of_products.view(to_outputs.shape[1], -1))
        if of_taps is not None:
            of_factors = room.take("factors", *of_products.shape[:2], out, channels)
            for of_factor, of_product, numbers in zip(of_factors, of_products, images, strict=True):
                torch.bmm(of_product.mT, numbers, out=of_factor)
            _add(from_taps.t(), of_factors.view(len(from_taps), -1), of_taps)
        if of_maps:
            _overwrite(images, of_products, _factors(from_taps, taps, images, room))


def _overwrite(images: list[Tensor], of_products: Tensor, factors: Tensor) -> None:
    """Overwrite the numbers of some frequencies by their gradients."""
    first, *others = zip(of_products, factors, strict=True)
    if len(images) == 3:  # real and imaginary part, and their sum, which is not a part of the spectrum
        torch.bmm(*others[1], out=images[2])
        torch.baddbmm(images[2], *first, out=images[0])
        torch.baddbmm(images[2], *others[0], out=images[1])
    else:
        torch.bmm(*first, out=images[0])
        for pair in others:
            images[0].baddbmm_(*pair)


def taps_by_place(weight: Tensor) -> Tensor:
    """Return a copy of a weight ``(O, C, K, L)`` as ``(K, L, O * C)``, by a transposition, which a CPU does fastest."""
    size = weight.shape[2:]
    return weight.reshape(-1, prod(size)).t().clone(memory_format=torch.contiguous_format).view(*size, -1)


def weight_of_places(places: Tensor, shape: torch.Size) -> Tensor:
    """Return the weight of this shape that `taps_by_place` was given."""
    return places.view(prod(shape[2:]), -1).t().contiguous().view(shape)


def _of_phase(places: Tensor, phase: Phase, stride: Size) -> Tensor:
    """Return a view of the part of ``(K, L, ...)`` that belongs to a phase."""
    return places[phase.offset[0] :: stride[0], phase.offset[1] :: stride[1]]


def _parts(form: Form, spectrum: Tensor, taps: Tensor, room: Room) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
    """Yield the products of a few frequencies at a time, so that the spectrum of the kernel is small.

    Yields:
        Q times the numbers of the images, ``(f, P * B, C)``, views of the spectrum except for sums; and the matrices of
        all of them, ``(Q * f, taps)`` and ``(outputs, Q * f * P)``.
    """
    (kinds, count, _), rows = form.from_taps.shape, form.to_outputs.shape[3]
    most = max(1, _MOST_FACTORS // (kinds * taps.shape[1]))
    for start, stop in pairwise(sorted({*range(0, form.alone, most), *range(form.alone, count, most), count})):
        part = slice(start, stop)
        if rows == 2:
            images = [spectrum[2 * start : 2 * stop].view(stop - start, -1, spectrum.shape[2])] * 2
        elif start < form.alone:
            images = [spectrum[part]]
        else:
            real, imaginary = spectrum[part], spectrum[count - form.alone :][part]
            images = [real, imaginary, torch.add(real, imaginary, out=room.take("sums", *real.shape))]
        kinds = len(images)
        yield images, form.from_taps[:kinds, part].flatten(0, 1), form.to_outputs[:, :kinds, part].flatten(1)


def _factors(from_taps: Tensor, taps: Tensor, images: list[Tensor], room: Room) -> Tensor:
    """Return what Q times ``(f, P * B, C)`` of the images are multiplied by, ``(Q, f, O, C)``."""
    found = room.take("factors", len(from_taps), taps.shape[1])
    _multiply(from_taps, taps, found)
    return found.view(len(images), len(images[0]), -1, images[0].shape[2])


def _multiply(matrix: Tensor, columns: Tensor, out: Tensor) -> None:
    """Set ``out (m, n)`` to the product of ``matrix (m, k)`` and ``columns (k, n)``, which may be of other dtypes."""
    if columns.dtype == out.dtype == matrix.dtype:
        torch.mm(matrix, columns, out=out)
        return
    for source, target in zip(torch.split(columns, _COLUMNS, dim=1), torch.split(out, _COLUMNS, dim=1), strict=True):
        target.copy_(matrix @ source.to(matrix.dtype))


def _add(matrix: Tensor, columns: Tensor, total: Tensor) -> None:
    """Add to ``total (m, n)`` the product of ``matrix (m, k)`` and ``columns (k, n)``, perhaps of another dtype."""
    if columns.dtype == matrix.dtype:
        total.addmm_(matrix, columns)
        return
    for source, target in zip(torch.split(columns, _COLUMNS, dim=1), torch.split(total, _COLUMNS, dim=1), strict=True):
        target.addmm_(matrix, source.to(matrix.dtype))
