"""A convolution by products of frequencies on the CPU, forwards and backwards; see `frequencies`.

What is kept of the images for the backward pass is their spectrum, and its gradient overwrites it. The spectra of
kernel and products are larger than what they are made of, so they are formed for some frequencies at a time.
Products and transforms are in the dtype of the spectrum, which may be bfloat16; what several phases add up to is in the
dtype of the weight.

Positions are ``(positions, b, C)``, a spectrum ``(F * P, B, C)``, taps ``(taps, O * C)``, outputs ``(outputs, B * O)``:
what is transformed comes first, so that every transform is one product of matrices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import accumulate, pairwise
from math import ceil, prod

import torch
from torch import Tensor

from capsule_lightning.kernels.cpu_products import add_product, multiply, multiply_each, transposed
from capsule_lightning.kernels.frequencies import Form, Phase, Size, Tile, form_of, tiles_of

_MOST_FACTORS = 2**23  # bytes of the spectrum of a kernel that are there at once
_MOST_NUMBERS = 2**21  # of positions


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
        """Return the positions of a phase, ``(positions, b, C)``, in the dtype of the spectrum."""

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
        whole = self.weight.new_empty(*self.outputs, maps.batch, len(self.weight))
        spectra, room = self._spectra(maps, keep), Room(self.products)
        places, free = taps_by_place(self.weight, self.products), iter(spectra)
        found = [self.weight.new_zeros(prod(tile.outputs), maps.batch * len(self.weight)) for tile in self.tiles]
        for number, taps in self._phases(places):
            for tile, outputs in zip(self.tiles, found, strict=True):
                form = self._form(tile, number)
                spectrum = self._fill(form, next(free), maps, tile, tile.phases[number])
                add_products(form, spectrum, taps, outputs, room)
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
        of_outputs = [self._of_outputs(tile, grad[tile.rows, tile.columns]) for tile in self.tiles]
        again, room = not kept, Room(self.products)
        spectra = iter(self._spectra(maps, keep=False) if again else kept.copy())
        kept.clear()
        places = taps_by_place(self.weight, self.products)
        for number, taps in self._phases(places):
            of_taps = torch.zeros_like(taps, dtype=self.weight.dtype) if of_weight else None
            for tile, of_tile in zip(self.tiles, of_outputs, strict=True):
                phase, spectrum = tile.phases[number], next(spectra)
                form = self._form(tile, number)
                if again:
                    self._fill(form, spectrum, maps, tile, phase)
                add_gradients(form, spectrum, taps, of_tile, of_taps, of_maps, room)
                for images in self._images(maps, phase) if of_maps else ():
                    maps.take_gradient(tile, phase, images, read_gradient(form, spectrum[:, images]))
            if of_taps is not None:  # the taps of this phase are not needed any more
                part = _of_phase(places, self.tiles[0].phases[number], self.stride)
                part.copy_(of_taps.view_as(part))
        del spectra, spectrum, room, of_outputs  # which are larger than the gradient that is made now
        return weight_of_places(places, self.weight.shape).to(self.weight.dtype) if of_weight else None

    def _phases(self, places: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of each phase and a copy of its taps."""
        for number, phase in enumerate(self.tiles[0].phases):
            yield number, _of_phase(places, phase, self.stride).reshape(-1, places.shape[2])

    def _form(self, tile: Tile, number: int) -> Form:
        """Return the form of a phase.

        In full precision it has three products for a complex one, and the shortest transform. In half it has four, and
        for all phases the transform of the longest, whose waves `form_of` can round with less loss.
        """
        phase, full = tile.phases[number], self.products == self.weight.dtype
        return form_of(phase, tile.outputs, phase.positions if full else tile.lengths, full, self.products)

    def _of_outputs(self, tile: Tile, grad: Tensor) -> Tensor:
        """Return the scaled gradient of the outputs of a tile as ``(outputs, B * O)``."""
        scaled = self._form(tile, 0).scale * grad
        return scaled.to(self.products).reshape(prod(tile.outputs), -1).contiguous()

    def _spectra(self, maps: Maps, keep: bool) -> list[Tensor]:
        """Return room for the spectra of all phases and tiles, all in the same place unless they are kept."""
        rows = [
            len(self._form(tile, number).from_positions)
            for number in range(len(self.tiles[0].phases))
            for tile in self.tiles
        ]
        starts = [0, *accumulate(rows[:-1])] if keep else [0] * len(rows)
        whole = torch.empty(sum(rows) if keep else max(rows), maps.batch, maps.channels, dtype=self.products)
        return [whole[start : start + count] for start, count in zip(starts, rows, strict=True)]

    def _fill(self, form: Form, spectrum: Tensor, maps: Maps, tile: Tile, phase: Phase) -> Tensor:
        """Return the spectrum of what a phase sees of the maps, in the room for it."""
        for images in self._images(maps, phase):
            write_spectrum(form, maps.read(tile, phase, images), spectrum[:, images])
        return spectrum

    def _images(self, maps: Maps, phase: Phase) -> Iterator[slice]:
        """Yield the images in blocks of about equal size whose positions are quickly read again."""
        most = max(1, _MOST_NUMBERS // (prod(phase.positions) * maps.width))
        size = ceil(maps.batch / ceil(maps.batch / most))
        for first in range(0, maps.batch, size):
            yield slice(first, min(first + size, maps.batch))


def write_spectrum(form: Form, positions: Tensor, spectrum: Tensor) -> None:
    """Transform the positions of some images into their part ``(F * P, b, C)`` of a spectrum."""
    multiply(form.from_positions, positions.flatten(1), spectrum.view(len(spectrum), -1))


def read_gradient(form: Form, spectrum: Tensor) -> Tensor:
    """Return the gradient of the positions of some images, from the part ``(F * P, b, C)`` of that of the spectrum."""
    return multiply(form.from_positions.t(), spectrum.reshape(len(spectrum), -1)).view(-1, *spectrum.shape[1:])


def add_products(form: Form, spectrum: Tensor, taps: Tensor, outputs: Tensor, room: Room) -> None:
    """Add to the outputs what a phase contributes."""
    for images, from_taps, to_outputs in _parts(form, spectrum, taps, room):
        products = _products(images, _factors(from_taps, taps, images), room)
        add_product(to_outputs, products.view(to_outputs.shape[1], -1), outputs, form.scale)


def add_gradients(
    form: Form, spectrum: Tensor, taps: Tensor, of_outputs: Tensor, of_taps: Tensor | None, of_maps: bool, room: Room
) -> None:
    """Add the gradient of the taps of a phase, and overwrite its spectrum by the gradient.

    Args:
        form, spectrum, taps: as they were for `add_products`.
        of_outputs: gradient of the outputs, multiplied by the scale of the form, in the dtype of the spectrum.
        of_taps: what is added to, if anything.
        of_maps: whether the gradient of the spectrum is wanted.
        room: where products are made.
    """
    for images, from_taps, to_outputs in _parts(form, spectrum, taps, room):
        shape = len(images), *images[0].shape[:2], of_outputs.shape[1] // spectrum.shape[1]
        of_products = multiply(
            to_outputs.t(), of_outputs, room.take("products", *to_outputs.shape[1:], of_outputs.shape[1])
        ).view(shape)
        if of_taps is not None:
            of_factors = _gradients_of_factors(images, of_products, room)
            add_product(from_taps.t(), of_factors.view(len(from_taps), -1), of_taps)
        if of_maps:
            _overwrite(images, of_products, _factors(from_taps, taps, images))


def _products(images: list[Tensor], factors: Tensor, room: Room) -> Tensor:
    """Return Q times products ``(f, P * B, O)`` of the images with their factors."""
    products = room.take("products", *factors.shape[:2], images[0].shape[1], factors.shape[2])
    for product, numbers, factor in zip(products, images, factors, strict=True):
        multiply_each(numbers, factor.mT, product)
    return products


def _gradients_of_factors(images: list[Tensor], of_products: Tensor, room: Room) -> Tensor:
    """Return the gradients of Q times factors ``(f, O, C)`` from those of their products with the images."""
    found = room.take("factors", *of_products.shape[:2], of_products.shape[3], images[0].shape[2])
    for of_factor, of_product, numbers in zip(found, of_products, images, strict=True):
        multiply_each(of_product.mT, numbers, of_factor)
    return found


def _overwrite(images: list[Tensor], of_products: Tensor, factors: Tensor) -> None:
    """Overwrite the numbers of some frequencies by their gradients."""
    first, *others = zip(of_products, factors, strict=True)
    if len(images) == 3:  # real and imaginary part, and their sum, which is not a part of the spectrum
        multiply_each(*others[1], images[2])
        multiply_each(*first, images[0], plus=images[2])
        multiply_each(*others[0], images[1], plus=images[2])
    else:
        multiply_each(*first, images[0])
        for pair in others:
            multiply_each(*pair, images[0], plus=images[0])


def taps_by_place(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy of a weight ``(O, C, K, L)`` as ``(K, L, O * C)``."""
    size = weight.shape[2:]
    return transposed(weight.reshape(-1, prod(size)).to(dtype)).view(*size, -1)


def weight_of_places(places: Tensor, shape: torch.Size) -> Tensor:
    """Return what `taps_by_place` was given, if it had this shape."""
    return transposed(places.view(prod(shape[2:]), -1)).view(shape)


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
    most = max(1, _MOST_FACTORS // (kinds * taps.shape[1] * taps.itemsize))
    borders = {*range(0, form.alone, most), *range(form.alone, count, most)} if rows == 1 else {*range(0, count, most)}
    for start, stop in pairwise([*sorted(borders), count]):
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


def _factors(from_taps: Tensor, taps: Tensor, images: list[Tensor]) -> Tensor:
    """Return what Q times ``(f, P * B, C)`` of the images are multiplied by, ``(Q, f, O, C)``."""
    return multiply(from_taps, taps).view(len(images), len(images[0]), -1, images[0].shape[2])
