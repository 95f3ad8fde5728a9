"""Which pairs of sentences are trained, validated and tested on: whole groups of them, such as books."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from capsule_lightning.data.module import Split
from capsule_lightning.data.parallel_text import ParallelText
from capsule_lightning.errors import require


class PairSplits:
    """Places of the pairs to train and to test on; those to validate on are among the former.

    Args:
        text: the pairs. Parts that it lists itself are taken.
        val_size, test_size: number or fraction of the pairs that are split off otherwise, in whole groups.

    Attributes:
        places: by split, in ascending order.

    Raises:
        InputError: nothing would be left to train on, or nothing to test on.
    """

    def __init__(self, text: ParallelText, val_size: float | int, test_size: float | int) -> None:
        self.text, self.val_size = text, val_size
        self.lists_val = "val" in text.own_parts and bool(val_size)
        known = text.places("train", "val") if self.lists_val else text.places("train")
        if "test" in text.own_parts:
            test = text.places("test")
        else:
            train = text.places("train")
            test = [train[n] for n in split_by_group([text.groups[n] for n in train], test_size, 0, "test_size")[1]]
            held = set(test)
            known = [n for n in known if n not in held]
        self.places: dict[Split, list[int]] = {"train": known, "test": test}

    def hold_out(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return which of ``places["train"]`` to train and to validate on, int64.

        Args:
            seed: chooses the groups to validate on, unless the data list them.

        Raises:
            InputError: nothing would be left to train on.
        """
        places = self.places["train"]
        if self.lists_val:
            is_val = torch.tensor([self.text.parts[n] == "val" for n in places])
            return (~is_val).nonzero()[:, 0], is_val.nonzero()[:, 0]
        kept, taken = split_by_group([self.text.groups[n] for n in places], self.val_size, seed, "val_size")
        return torch.tensor(kept), torch.tensor(taken, dtype=torch.int64)


def split_by_group(groups: Sequence[str], size: float | int, seed: int, option: str) -> tuple[list[int], list[int]]:
    """Split whole groups off, in an order of chance, until no other fits into the size.

    Args:
        groups: the group of each pair.
        size: of the part split off, a number of pairs or a fraction.
        seed: chooses the groups.
        option: that sets ``size``, for the message.

    Returns:
        Places of what remains and of what is split off, both in ascending order.

    Raises:
        InputError: one of both would be empty.

    Example:
        >>> split_by_group(["Ruth"] * 3 + ["Job"], 1, 0, "test_size")
        ([0, 1, 2], [3])
    """
    count = round(size * len(groups)) if 0 < size < 1 else int(size)
    if not count:
        return list(range(len(groups))), []
    places: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        places.setdefault(group, []).append(number)
    names = list(places)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    taken: set[int] = set()
    for number in order:
        if len(taken) + len(places[names[number]]) <= count:
            taken.update(places[names[number]])
    require(
        0 < len(taken) < len(groups),
        f"{option}={size}: cannot split {count:,} of {len(groups):,} pairs in {len(names):,} groups off: the smallest "
        f"group has {min(map(len, places.values())):,}; change --data.{option}",
    )
    return [number for number in range(len(groups)) if number not in taken], sorted(taken)
