"""What is measured on stored images: channels, brightness, pictures of a single color, pictures that occur twice."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from capsule_lightning.data.loader import Store

_AT_ONCE, _BYTES_AT_ONCE = 10_000, 2**26  # images that are looked at a time, at most
_FLOATS_AT_ONCE = 500
_LEAST_DEVIATION = 0.02
"""Deviation of brightness, of [0, 1], that is always allowed for: a set may be all alike."""


class Brightness(NamedTuple):
    """How bright pictures are.

    Attributes:
        mean: mean over the pictures of their mean brightness, in [0, 1].
        deviation: standard deviation of that brightness.
    """

    mean: float
    deviation: float


class Measures(NamedTuple):
    """What is known of N images without their pixels.

    Attributes:
        digests: ``(N)`` int64, see `digests`.
        sums, squares: ``(N, C)`` int64, sum and sum of squares over the pixels of each channel.
        single: ``(N)`` bool, whether all pixels of an image are the same.
    """

    digests: Tensor
    sums: Tensor
    squares: Tensor
    single: Tensor


@runtime_checkable
class MeasuredStore(Protocol):
    """A store whose images are too many to be looked at again, and have been measured when they were first read.

    Attributes:
        measures: of its images, in their order.
        pixels: H times W.
    """

    measures: Measures
    pixels: int


def measure(images: Tensor) -> Measures:
    """Measure images ``(N, C, H, W)`` uint8."""
    pixels = images.flatten(2)
    wide = (image.int() for image in pixels)  # one at a time: all of them would take four times the memory
    both = [torch.stack([image.sum(dim=1), image.square().sum(dim=1)]) for image in wide]
    sums, squares = torch.stack(both, dim=1)
    single = (pixels.amax(dim=2) == pixels.amin(dim=2)).all(dim=1)
    return Measures(_digests(images), sums.cpu(), squares.cpu(), single.cpu())


def unit(images: Tensor) -> Tensor:
    """Return stored images as float32, bytes divided by 255: on the scale from 0 to 1, on which others are stored."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def channel_statistics(store: Store) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of images ``(N, C, H, W)``, on the [0, 1] scale.

    Of bytes they are those of exact sums: how the images are stored does not change a digit.
    """
    if isinstance(store, MeasuredStore):
        count = len(store) * store.pixels
        sums, squares = (total.sum(dim=0).tolist() for total in (store.measures.sums, store.measures.squares))
    elif store.take(_first(store)).dtype != torch.uint8:
        return _statistics_of_floats(store)
    else:
        counts = torch.zeros(store.take(_first(store)).shape[1], 256, dtype=torch.int64)
        for images in _parts(store):
            for counted, channel in zip(counts, images.unbind(dim=1), strict=True):
                counted += torch.bincount(channel.flatten(), minlength=256).cpu()
        values = torch.arange(256)
        count = int(counts[0].sum())
        sums, squares = ((counts * weight).sum(dim=1).tolist() for weight in (values, values**2))
    means = [total / (255 * count) for total in sums]
    variances = [(count * s - t * t) / (255 * count) ** 2 for s, t in zip(squares, sums, strict=True)]
    return means, [max(v, 1e-12) ** 0.5 for v in variances]


def _statistics_of_floats(store: Store) -> tuple[list[float], list[float]]:
    count, means = 0, torch.zeros(())
    squares = torch.zeros(())  # sums of squared distances from the means (Chan, Golub & LeVeque, 1983)
    for images in _parts(store, _FLOATS_AT_ONCE):
        values = images.cpu().double().transpose(0, 1).flatten(1)
        more, mean = values.shape[1], values.mean(dim=1)
        squares = (
            squares + ((values - mean[:, None]) ** 2).sum(dim=1) + (mean - means) ** 2 * count * more / (count + more)
        )
        means = means + (mean - means) * more / (count + more)
        count += more
    return means.tolist(), (squares / count).clamp(min=1e-12).sqrt().tolist()


def brightness_of(pictures: Tensor) -> Tensor:
    """Return the mean brightness ``(N)`` of pictures ``(N, C, H, W)``, in their own scale, as float64."""
    return pictures.flatten(1).sum(dim=1, dtype=torch.float64) / pictures[0].numel()


def brightness(store: Store) -> Brightness:
    """Measure how bright stored images ``(N, C, H, W)`` are, on at most 10,000 of them, evenly spread."""
    every = -(-len(store) // _AT_ONCE)
    some = torch.arange(0, len(store), every, device=store.labels.device)
    if isinstance(store, MeasuredStore):
        sums = store.measures.sums[some].sum(dim=1).double()
        found = sums / (store.measures.sums.shape[1] * store.pixels) / 255
    else:
        parts = (store.take(part) for part in torch.split(some, _at_once(store)))
        found = torch.cat([brightness_of(each) / (255 if each.dtype == torch.uint8 else 1) for each in parts]).cpu()
    return Brightness(float(found.mean()), float(found.std(correction=0)))


def unlike(pictures: Tensor, usual: Brightness, deviations: float = 5.0) -> Tensor:
    """Return which pictures are far brighter or darker than those that a network was trained on.

    A drawing in black on white is, for a network that was trained on white on black.

    Args:
        pictures: ``(N, C, H, W)`` in [0, 1].
        usual: brightness of the training images.
        deviations: how many standard deviations are far.

    Returns:
        ``(N)``: 1 if a picture is far brighter, -1 if far darker, and otherwise 0.

    Example:
        >>> unlike(torch.tensor([0.1, 0.9]).view(2, 1, 1, 1), Brightness(0.13, 0.03)).tolist()
        [0, 1]
    """
    off = brightness_of(pictures) - usual.mean
    return off.sign().long() * (off.abs() > deviations * max(usual.deviation, _LEAST_DEVIATION))


def single_colored(store: Store) -> Tensor:
    """Return the places ``(M)`` of images ``(N, C, H, W)`` whose pixels are all the same."""
    if isinstance(store, MeasuredStore):
        return store.measures.single.nonzero()[:, 0]
    found = []
    for images in _parts(store):
        pixels = images.flatten(2)
        found.append((pixels.amax(dim=2) == pixels.amin(dim=2)).all(dim=1))
    return torch.cat(found).nonzero()[:, 0]


def digests(store: Store) -> Tensor:
    """Return a number ``(N)`` int64 for each image: the same for the same pixels, and others for others.

    Two different images share a number with a chance of 1 in 2^64.
    """
    if isinstance(store, MeasuredStore):
        return store.measures.digests
    return torch.cat([_digests(images) for images in _parts(store)])


def _digests(images: Tensor) -> Tensor:
    rows = images.cpu().numpy()
    found = [int.from_bytes(blake2b(row.tobytes(), digest_size=8).digest(), signed=True) for row in rows]
    return torch.tensor(found, dtype=torch.int64)


def _first(store: Store) -> Tensor:
    return torch.arange(1, device=store.labels.device)


def _at_once(store: Store) -> int:
    """Return how many images are looked at a time."""
    return max(1, min(_AT_ONCE, _BYTES_AT_ONCE // store.take(_first(store)).nbytes)) if len(store) else 1


def _parts(store: Store, at_once: int | None = None) -> Iterator[Tensor]:
    for part in torch.split(torch.arange(len(store), device=store.labels.device), at_once or _at_once(store)):
        yield store.take(part)
