"""What was met in image files, as values that are kept beside the pictures and as lines for a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.data.loader import Store
from capsule_lightning.data.pictures import Seen
from capsule_lightning.data.statistics import MeasuredStore, digests, single_colored
from capsule_lightning.errors import printable, some_of

MOST_BYTES = 2**29
"""Largest set of images that is searched for pictures of a single color and for the same picture twice."""


class Facts(NamedTuple):
    """What was met in image files.

    Attributes:
        smallest, largest: ``(rows, columns)`` of the pictures with the fewest and the most pixels.
        transparent: number of pictures with transparency, which were laid on the background.
        animated: number of files with several frames or pages, of which the first was read.
        damaged: files that were left out because they could not be read, and why.
        others: files that were left out because they are not images.
    """

    smallest: tuple[int, int]
    largest: tuple[int, int]
    transparent: int
    animated: int
    damaged: Mapping[str, str]
    others: Sequence[str] = ()

    def below(self, folder: Path, odd: Mapping[Path, str], others: Iterable[Path]) -> Facts:
        """Return the facts with paths relative to a folder, and with what a search of that folder has left out."""
        damaged = {**self.damaged, **{str(path): reason for path, reason in odd.items()}}
        named = {_relative(name, folder): reason for name, reason in damaged.items()}
        return self._replace(damaged=named, others=[_relative(path, folder) for path in others])


def facts_of(seen: Sequence[Seen]) -> Facts:
    """Return what was met in N files, at least one."""
    sizes = [each.size for each in seen]
    transparent, animated = sum(each.transparent for each in seen), sum(each.animated for each in seen)
    return Facts(min(sizes, key=area), max(sizes, key=area), transparent, animated, {})


def read_facts(value: Any) -> Facts | None:
    """Return facts that have been kept as JSON; None if they are not in their form."""
    try:
        facts = Facts(**value)
        (low, narrow), (high, wide) = facts.smallest, facts.largest
        numbers = [low, narrow, high, wide, facts.transparent, facts.animated]
        words = [*facts.damaged, *facts.damaged.values(), *facts.others]
        good = all(type(number) is int for number in numbers) and all(isinstance(word, str) for word in words)
    except (TypeError, AttributeError, ValueError):
        return None
    return facts._replace(smallest=(low, narrow), largest=(high, wide)) if good else None


def size_in_words(met: Iterable[Facts], size: tuple[int, int]) -> str:
    """Return the sizes of image files if they are read as another size, such as ``64x64 read as``; else nothing."""
    every = list(met)
    smallest = min((each.smallest for each in every), key=area, default=size)
    largest = max((each.largest for each in every), key=area, default=size)
    if smallest == largest == size:
        return ""
    few, many = (f"{rows}x{columns}" for rows, columns in (smallest, largest))
    return f"{few if few == many else f'{few} to {many}'} pixels, read (--data.image_size) as "


def describe_facts(met: Mapping[str, Facts], background: str) -> list[str]:
    """Return lines about what is not as usual in image files, by split."""
    transparent, animated = (sum(getattr(each, name) for each in met.values()) for name in ("transparent", "animated"))
    damaged = {name: reason for each in met.values() for name, reason in each.damaged.items()}
    others = list(dict.fromkeys(name for each in met.values() for name in each.others))
    lines = []
    if transparent:
        lines.append(f"{transparent:,} transparent, laid on {background} (--data.background)")
    if animated:
        lines.append(f"{animated:,} of several frames or pages, of which the first is read")
    if damaged:
        told = [f"{name} ({reason[:80]})" for name, reason in damaged.items()]
        lines.append(f"{len(damaged):,} damaged and left out: {some_of(told)}")
    if others:
        lines.append(f"{len(others):,} files are not images and are left out: {some_of(others)}")
    return [printable(line) for line in lines]


class Part(NamedTuple):
    """Examples of a split.

    Attributes:
        store: where they are.
        places: ``(N)`` int64, their places there.
        names: their files; None if they are known by their places.
    """

    store: Store
    places: Tensor
    names: Sequence[PurePath] | None

    def name(self, split: str, number: int) -> str:
        """Return the name of one of them for messages."""
        place = int(self.places[number])
        return f"{split} image {place}" if self.names is None else str(self.names[place])


def describe_oddities(parts: Mapping[str, Part]) -> list[str]:
    """Return lines about pictures of a single color, and about pictures that are in two splits.

    Args:
        parts: by split, training first.
    """
    stores = {id(part.store): part.store for part in parts.values() if _is_small(part.store)}
    pixels = {key: (digests(store), single_colored(store).cpu()) for key, store in stores.items()}
    parts = {split: part for split, part in parts.items() if id(part.store) in pixels}
    found = {split: pixels[id(part.store)][0][part.places.cpu()] for split, part in parts.items()}
    plain: list[str] = []
    for split, part in parts.items():
        hits = torch.isin(part.places.cpu(), pixels[id(part.store)][1]).nonzero()[:, 0]
        plain += [part.name(split, number) for number in hits.tolist()]
    lines = [f"{len(plain):,} of a single color: {some_of(plain)}"] if plain else []
    twice: list[str] = []
    earlier, starts = torch.empty(0, dtype=torch.int64), dict[str, int]()
    for split, numbers in found.items():
        first, places = np.unique(earlier.numpy(), return_index=True)
        for number in torch.isin(numbers, earlier).nonzero()[:, 0].tolist():
            place = int(places[np.searchsorted(first, int(numbers[number]))])
            other = [each for each, start in starts.items() if start <= place][-1]
            twice.append(f"{parts[split].name(split, number)} = {parts[other].name(other, place - starts[other])}")
        starts[split] = len(earlier)
        earlier = torch.cat([earlier, numbers])
    if twice:
        lines.append(
            f"{len(twice):,} to measure with that are also in another split, pixel for pixel: {some_of(twice, 3)}"
        )
    return [printable(line) for line in lines]


def _is_small(store: Store) -> bool:
    return isinstance(store, MeasuredStore) or (
        len(store) > 0
        and len(store) * store.take(torch.zeros(1, dtype=torch.int64, device=store.labels.device)).nbytes <= MOST_BYTES
    )


def area(size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Return what sizes are ordered by."""
    return size[0] * size[1], size


def _relative(name: str | Path, folder: Path) -> str:
    path = Path(name)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
