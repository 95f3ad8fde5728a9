"""What was met in image files, as values that are kept beside the pictures and as lines for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.data.loader import Store
from capsule_lightning.data.pictures import Reading, Seen
from capsule_lightning.data.statistics import MeasuredStore, digests, single_colored
from capsule_lightning.errors import printable, some_of

MOST_BYTES = 2**29
"""Largest set of images that is searched for pictures of a single color and for the same picture twice."""


MOST_CLASSES = 20
"""Most classes whose numbers of examples are told one by one."""


class Facts(NamedTuple):
    """What was met in image files.

    Attributes:
        smallest, largest: ``(rows, columns)`` of the pictures with the fewest and the most pixels.
        transparent: number of pictures with transparency, which were laid on the background.
        animated: number of files with several frames or pages, of which the first was read.
        damaged: files that were left out because they could not be read, and why.
        others: files that were left out because they are not images.
        reshaped: number of pictures that are as wide for their height as the size to which they were brought is not.
        cut: number of pictures with 16 bits a channel, of which the upper 8 were kept.
        modes: number of files of each kind of pixels: gray, color, color with transparency, ...
        span: smallest and largest value of pictures that are not bytes; None of bytes.
    """

    smallest: tuple[int, int]
    largest: tuple[int, int]
    transparent: int
    animated: int
    damaged: Mapping[str, str]
    others: Sequence[str] = ()
    reshaped: int = 0
    cut: int = 0
    modes: Mapping[str, int] = {}
    span: tuple[float, float] | None = None

    def below(self, folder: Path, odd: Mapping[Path, str], others: Iterable[Path]) -> Facts:
        """Return the facts with paths relative to a folder, and with what a search of that folder has left out."""
        damaged = {**self.damaged, **{str(path): reason for path, reason in odd.items()}}
        named = {_relative(name, folder): reason for name, reason in damaged.items()}
        return self._replace(damaged=named, others=[_relative(path, folder) for path in others])


def facts_of(seen: Iterable[Seen], size: tuple[int, int]) -> Facts:
    """Return what was met in N files, at least one, whose pictures were brought to a size ``(rows, columns)``."""
    counted = Counter(seen)  # of a million files, few differ

    def number(holds: Callable[[Seen], bool]) -> int:
        return sum(count for each, count in counted.items() if holds(each))

    modes = Counter[str]()
    for each, count in counted.items():
        modes[each.mode] += count
    sizes = [each.size for each in counted]
    return Facts(
        min(sizes, key=area),
        max(sizes, key=area),
        number(lambda each: each.transparent),
        number(lambda each: each.animated),
        {},
        reshaped=number(lambda each: each.size[0] * size[1] != each.size[1] * size[0]),
        cut=number(lambda each: each.cut),
        modes=dict(modes.most_common()),
    )


def read_facts(value: Any) -> Facts | None:
    """Return facts that have been kept as JSON; None if they are not in their form."""
    try:
        facts = Facts(**value)
        (low, narrow), (high, wide) = facts.smallest, facts.largest
        numbers = [low, narrow, high, wide, facts.transparent, facts.animated, facts.reshaped, facts.cut]
        numbers += facts.modes.values()
        words = [*facts.damaged, *facts.damaged.values(), *facts.others, *facts.modes]
        good = all(type(number) is int for number in numbers) and all(isinstance(word, str) for word in words)
        least, most = (0.0, 1.0) if facts.span is None else facts.span
        good = good and isfinite(least) and isfinite(most)
    except (TypeError, AttributeError, ValueError):
        return None
    span = None if facts.span is None else (least, most)
    return facts._replace(smallest=(low, narrow), largest=(high, wide), span=span) if good else None


def size_in_words(met: Iterable[Facts], size: tuple[int, int]) -> str:
    """Return the sizes of image files if they are read as another size, such as ``64x64 read as``; else nothing."""
    every = list(met)
    smallest = min((each.smallest for each in every), key=area, default=size)
    largest = max((each.largest for each in every), key=area, default=size)
    if smallest == largest == size:
        return ""
    few, many = (f"{rows}x{columns}" for rows, columns in (smallest, largest))
    return f"{few if few == many else f'{few} to {many}'} pixels, read (--data.image_size) as "


def describe_facts(met: Mapping[str, Facts], reading: Reading, channels: int) -> list[str]:
    """Return lines about what is not as usual in image files.

    Args:
        met: by split.
        reading: how the files became pictures.
        channels: C of the pictures.
    """
    transparent, animated, reshaped, cut = (
        sum(getattr(each, name) for each in met.values()) for name in ("transparent", "animated", "reshaped", "cut")
    )
    modes = sum((Counter(each.modes) for each in met.values()), Counter())
    damaged = {name: reason for each in met.values() for name, reason in each.damaged.items()}
    others = list(dict.fromkeys(name for each in met.values() for name in each.others))
    lines = []
    if reshaped:
        done = {"squeeze": "squeezed to it", "crop": "cropped to it in the middle"}
        how = done.get(reading.fit, f"padded to it with {reading.background}")
        lines.append(f"{reshaped:,} of another ratio of rows to columns, {how} (--data.fit {reading.fit})")
    if len(modes) > 1:
        kinds = ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common())
        lines.append(f"{kinds}: all read as {'gray' if channels == 1 else 'color'} (--data.channels {channels})")
    if cut:
        lines.append(f"{cut:,} of 16 bits, of which the upper 8 are kept")
    if met and reading.values is not None:
        low, high = reading.values
        lines.append(f"values are floats, {low:.6g} becomes 0 and {high:.6g} becomes 1 (--data.value_range)")
    if transparent:
        lines.append(f"{transparent:,} transparent, laid on {reading.background} (--data.background)")
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


def describe_counts(parts: Mapping[str, Part], class_names: Sequence[str]) -> list[str]:
    """Return a line about how many examples each class has in each split; none if an example has several labels."""
    if not parts or any(part.store.labels.ndim > 1 for part in parts.values()):
        return []
    counts = [
        torch.bincount(part.store.labels.cpu()[part.places.cpu()], minlength=len(class_names)).tolist()
        for part in parts.values()
    ]
    ways = "/".join(parts)
    if len(class_names) <= MOST_CLASSES:
        told = [f"{name} {'/'.join(f'{n:,}' for n in each)}" for name, *each in zip(class_names, *counts, strict=True)]
        return [printable(f"{ways}: {', '.join(told)}")]
    few, many = ([f"{choose(each):,}" for each in counts] for choose in (min, max))
    rare, usual = (class_names[counts[0].index(choose(counts[0]))] for choose in (min, max))
    return [
        printable(
            f"{ways}: {'/'.join(few)} of the rarest class to {'/'.join(many)} of the most frequent; to train on those "
            f"are {rare} and {usual}"
        )
    ]


def describe_oddities(parts: Mapping[str, Part]) -> list[str]:
    """Return lines about pictures of a single color, and about the same pictures in two splits or two classes.

    Pictures are the same if their pixels are, as files with the same bytes are.

    Args:
        parts: by split, training first.
    """
    large = [split for split, part in parts.items() if len(part.places) and not _is_small(part.store)]
    stores = {id(part.store): part.store for part in parts.values() if _is_small(part.store)}
    pixels = {key: (digests(store), single_colored(store).cpu()) for key, store in stores.items()}
    parts = {split: part for split, part in parts.items() if id(part.store) in pixels}
    found = {split: pixels[id(part.store)][0][part.places.cpu()] for split, part in parts.items()}
    plain: list[str] = []
    for split, part in parts.items():
        hits = torch.isin(part.places.cpu(), pixels[id(part.store)][1]).nonzero()[:, 0]
        plain += [part.name(split, number) for number in hits.tolist()]
    lines = [f"{len(plain):,} of a single color: {some_of(plain)}"] if plain else []
    if large:
        lines.append(f"{' and '.join(large)}: too many pixels to be searched for the same picture twice")
    twice: list[str] = []
    torn = _in_two_classes(parts, found)
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
    if torn:
        lines.append(f"{len(torn):,} have the pixels of another one of another class: {some_of(torn, 3)}")
    return [printable(line) for line in lines]


def _in_two_classes(parts: Mapping[str, Part], found: Mapping[str, Tensor]) -> list[str]:
    """Return the names of pictures that an earlier picture of another class equals, and of that one."""
    first: dict[int, tuple[int, str]] = {}
    torn: list[str] = []
    together = np.concatenate([np.empty(0, dtype=np.int64), *(each.numpy() for each in found.values())])
    every, counts = np.unique(together, return_counts=True)
    several = torch.from_numpy(every[counts > 1])
    for split, part in parts.items():
        labels = part.store.labels.cpu()[part.places.cpu()]
        if labels.ndim > 1:
            return []
        for number in torch.isin(found[split], several).nonzero()[:, 0].tolist():
            digest, label = int(found[split][number]), int(labels[number])
            if digest not in first:
                first[digest] = label, part.name(split, number)
            elif first[digest][0] != label:
                torn.append(f"{part.name(split, number)} = {first[digest][1]}")
    return torn


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
