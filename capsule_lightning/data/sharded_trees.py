"""Trees of image files that are looked at once, shard by shard, and read when asked for from then on."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from capsule_lightning.data.facts import Facts, facts_of
from capsule_lightning.data.image_files import misfit
from capsule_lightning.data.image_trees import ClassTree
from capsule_lightning.data.path_lists import PathList
from capsule_lightning.data.pictures import Seen, read_picture
from capsule_lightning.data.shards import (
    MET,
    MOST_IMAGES,
    How,
    ShardedPictures,
    make_shard,
    measures_of,
    open_shard,
    require_readable,
    shard_folder,
)
from capsule_lightning.data.split_record import file_keys
from capsule_lightning.data.storage import free_disk, in_words, place, require_disk
from capsule_lightning.data.streamed_store import MeasuredPictures, Pictures
from capsule_lightning.errors import InputError

_TELL_EVERY = 60.0  # seconds between two lines about how far it is, if there is no terminal


class ShardedTree(NamedTuple):
    """A tree all of whose files have been looked at.

    Attributes:
        keys: ``(N)`` int64 of the files, see `file_keys`.
        records: ``(N)``, see `How.record`.
        damaged: why files could not be read, by their names.
        pictures: reads them.
        folder: where shards are.
    """

    keys: torch.Tensor
    records: np.ndarray
    damaged: dict[str, str]
    pictures: Pictures
    folder: Path


class Streamed(NamedTuple):
    """A split whose pictures are read when asked for.

    Attributes:
        store: the pictures.
        files: the N files that they are of, relative to the tree's folder.
        facts: what was met in them.
    """

    store: MeasuredPictures
    files: PathList
    facts: Facts


class OriginalPictures:
    """Pictures in the files that people keep them in.

    Args:
        paths: the files.
        how: see `How`.
    """

    def __init__(self, paths: Sequence[Path], how: How) -> None:
        self.paths, self.how = paths, how
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about metadata that nothing here reads

    def read(self, number: int, out: np.ndarray) -> None:
        """Decode a picture into ``out (C, H, W)``.

        Raises:
            UnreadableImageError: the file cannot be read.
            InputError: its picture has another size by now.
        """
        channels, rows, columns = self.how.shape
        picture, seen = read_picture(self.paths[number], channels, (rows, columns), self.how.resize, self.how.reading)
        if picture is None:
            raise misfit(self.paths, {number: seen.size}, (rows, columns))
        out[...] = picture.reshape(rows, columns, channels).transpose(2, 0, 1)


class JoinedPictures:
    """Pictures of several trees, those of the second numbered after those of the first."""

    def __init__(self, trees: Sequence[ShardedTree]) -> None:
        self.parts = [(len(tree.records), tree.pictures) for tree in trees]

    def read(self, number: int, out: np.ndarray) -> None:
        """Read a picture into ``out (C, H, W)``, see `Pictures`."""
        for count, pictures in self.parts:
            if number < count:
                pictures.read(number, out)
                return
            number -= count
        raise IndexError(number)


def shard_tree(paths: PathList, folders: Sequence[Path], how: How) -> ShardedTree:
    """Look at all files of a tree that have not been looked at before.

    Args:
        paths: the files.
        folders: where shards may be; the first that has all of them is taken, or else the first that can be written.
        how: how files become pictures, and whether the pixels are kept.

    Raises:
        InputError: files cannot be read, or have another size; a shard is damaged, or cannot be written.
    """
    blocks = [range(start, min(start + how.per_shard, len(paths))) for start in range(0, len(paths), how.per_shard)]

    def opened(folder: Path, number: int) -> np.ndarray | None:
        here = [paths[each] for each in blocks[number]]
        shard = open_shard(shard_folder(folder, number), here, how)
        if shard is not None:
            damaged.update(shard.damaged)
        return None if shard is None else shard.records

    for folder in folders:
        damaged: dict[str, str] = {}
        found = [opened(folder, number) for number in range(len(blocks))]
        if all(each is not None for each in found):
            break
    else:
        folder, damaged = place(folders), {}
        found = [opened(folder, number) for number in range(len(blocks))]
        require_readable(damaged, how)
        missing = [number for number, each in enumerate(found) if each is None]
        for number in _shown(missing, blocks, folder, how):
            here = [paths[each] for each in blocks[number]]
            make_shard(shard_folder(folder, number), here, how)
            found[number] = opened(folder, number)
            require_readable(damaged, how)
    require_readable(damaged, how)
    records = np.concatenate([each for each in found if each is not None])
    if len(records) != len(paths):
        raise InputError(f"{folder}: files have changed while they were read; begin again")
    keys = file_keys(paths.below(how.top).texts())
    checksums = records["checksum"].copy()  # not a view, which would keep all records
    pictures = ShardedPictures(folder, how, checksums) if how.with_pixels else OriginalPictures(paths, how)
    return ShardedTree(keys, records, damaged, pictures, folder)


def _shown(missing: Sequence[int], blocks: Sequence[range], folder: Path, how: How) -> Iterator[int]:
    """Yield the numbers of the shards to make, and show how far it is and how long it will take."""
    total, pending = sum(map(len, blocks)), sum(len(blocks[number]) for number in missing)
    size = pending * (how.record.itemsize + (prod(how.shape) if how.with_pixels else 0))
    require_disk(size, folder)
    done = total - pending
    goes_on = f", {done:,} are done" if done else ""
    what = f"making shards of {total:,} images" if how.with_pixels else f"looking at {total:,} images once"
    rank_zero_info(
        f"{what}{goes_on}: {in_words(size)} of the {in_words(free_disk(folder))} that are free, in {folder}. If it is "
        "interrupted, it goes on there the next time"
    )
    console = Console(stderr=True)
    clocks = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *clocks)
    begun = told = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown_task = bar.add_task("images", total=total, completed=done)
        made = 0
        for number in missing:
            yield number
            made += len(blocks[number])
            bar.update(shown_task, completed=done + made)
            now = time.monotonic()
            if not console.is_terminal and now - told > _TELL_EVERY:
                told, left = now, (pending - made) * (now - begun) / made
                rank_zero_info(f"{done + made:,} of {total:,} images, about {timedelta(seconds=round(left))} left")


def stream(tree: ClassTree, parts: Sequence[ShardedTree], how: How) -> Streamed:
    """Return the pictures of a split.

    Args:
        tree: the files of the split.
        parts: trees that they are in.
        how: see `How`.

    Raises:
        InputError: no file of a class can be read.
    """
    files = tree.paths.below(how.top)
    numbers = _find(file_keys(files.texts()), torch.cat([part.keys for part in parts]))
    records = np.concatenate([part.records for part in parts])[numbers.numpy()]
    kept = torch.from_numpy(records["good"]).nonzero()[:, 0]
    labels = torch.tensor(tree.labels)[kept]
    for label in sorted(set(tree.labels) - set(labels.tolist())):
        name = tree.class_names[label]
        raise InputError(f"{how.top}: no image of the class {name} can be read; replace or remove it")
    records = records[kept.numpy()]
    store = MeasuredPictures(
        JoinedPictures(parts), numbers[kept], labels, how.shape, measures_of(records), how.reading.skip_damaged
    )
    reasons = {name: reason for part in parts for name, reason in part.damaged.items()}
    left_out = [str(files[number]) for number in np.flatnonzero(~np.isin(np.arange(len(files)), kept)).tolist()]
    facts = _facts(records, how.shape[1:])._replace(damaged={name: reasons[name] for name in left_out})
    odd = {each.path: each.reason for each in tree.odd}
    if len(kept) < len(files):
        files = files.some(kept.tolist())
    return Streamed(store, files, facts.below(how.top, odd, tree.others))


def _find(wanted: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the places of some keys among all.

    Raises:
        InputError: one is not there: the files have changed while they were looked at.
    """
    ordered, places = keys.sort()
    at = torch.searchsorted(ordered, wanted).clamp(max=len(keys) - 1)
    if not torch.equal(ordered[at], wanted):
        raise InputError("image files have come or gone while they were looked at; begin again")
    return places[at]


def _facts(records: np.ndarray, size: tuple[int, int]) -> Facts:
    """Return what was met in files."""

    def seen() -> Iterator[Seen]:
        for start in range(0, len(records), MOST_IMAGES):  # numbers of Python take ten times as much memory
            part = records[start : start + MOST_IMAGES]
            for shape, clear, moving, mode, cut in zip(*(part[name].tolist() for name in MET), strict=True):
                yield Seen((shape[0], shape[1]), clear, moving, mode.decode(), cut)

    return facts_of(seen(), size)
