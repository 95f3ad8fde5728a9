"""Which examples of one list are trained, validated and tested on: those that it lists, or a part of a given size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from capsule_lightning.data.division import Division
from capsule_lightning.data.module import Split
from capsule_lightning.data.split_folders import Part
from capsule_lightning.data.stratified import split_off


class RowSplits(NamedTuple):
    """N examples, each of which may be listed for a split.

    What is listed to validate on is validated on, whatever number ``val_size`` is above 0; what no example is listed
    for is taken from those to train on. Examples of one group are all in one split.

    Attributes:
        title: of the data, for messages.
        labels: ``(N)`` int64; or ``(N, L)``, see `capsule_lightning.data.label_sets.padded`.
        parts: the part that each is listed for: ``train``, ``val`` or ``test``.
        groups: the group of each; empty if there are none.
        own_parts: what the data call the examples that they list to validate or to test on, by ``val`` and ``test``.
        class_names: names of the classes.
        division: takes a test set off if none is listed as such.
        val_size: see `capsule_lightning.data.module.DataModule`.
    """

    title: str
    labels: Tensor
    parts: Sequence[Part]
    groups: Sequence[str]
    own_parts: Mapping[Part, str]
    class_names: Sequence[str]
    division: Division
    val_size: float | int

    def require_enough(self) -> None:
        """Refuse more folds than a class has examples or groups.

        Raises:
            InputError: names the class.
        """
        train = self._listed("train")
        self.division.require_enough(self.labels[train], self.class_names, self._groups(train))

    def places(self, split: Split) -> Tensor:
        """Return the places of a split's examples ``(M)`` int64; those to validate on are among those to train on.

        Raises:
            InputError: nothing is left to test on, or a class would be on one side alone.
        """
        if "test" in self.own_parts and split == "test":
            return self._listed("test")
        train, test = self._listed("train"), torch.empty(0, dtype=torch.int64)
        if "test" not in self.own_parts:
            kept, taken = self.division.off(self.labels[train], self.title, self.class_names, self._groups(train))
            train, test = train[kept], train[taken]
        if split == "test":
            return test
        return torch.cat([train, self._listed("val")]) if self._lists_val else train

    def hold_out(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return which examples of the training set to train on and which to validate on, as places in that set."""
        places = self.places("train")
        if self._lists_val:
            held_out = torch.tensor([self.parts[place] == "val" for place in places.tolist()])
            return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
        return split_off(
            self.labels[places], self.val_size, seed, class_names=self.class_names, groups=self._groups(places)
        )

    def origin_of(self, part: str) -> str | None:
        """Return what chose the examples of ``val`` or ``test``, in parentheses; None if it goes without saying."""
        if part in self.own_parts:
            return f" ({self.own_parts[part]})"  # type: ignore[index]
        return f" ({self.division})" if part == "test" else None

    @property
    def _lists_val(self) -> bool:
        return "val" in self.own_parts and self.val_size != 0

    def _listed(self, wanted: Part) -> Tensor:
        return torch.tensor([n for n, part in enumerate(self.parts) if part == wanted], dtype=torch.int64)

    def _groups(self, places: Tensor) -> list[str] | None:
        return [self.groups[place] for place in places.tolist()] if self.groups else None
