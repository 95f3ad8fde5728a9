"""Sentences with two entities in memory as ids, and what a task receives of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.shares import Share
from capsule_lightning.data.text_store import TextStore
from capsule_lightning.data.tokens import PAD


class RelationBatch(NamedTuple):
    """What a task receives of sentences with two entities.

    Attributes:
        tokens: ``(B, 3, T)`` int64: ids of the words; ids of their distances from the first and from the second entity,
            see `distance_ids`; `PAD` behind a sentence that is shorter than the longest.
        labels: ``(B)`` int64, relations.
        bags: ``(B)`` int64: sentences of the same number are about the same pair of entities.
        indices: ``(B)`` int64, positions in the stored set.
        shares: see `TextBatch`.
    """

    tokens: Tensor
    labels: Tensor
    bags: Tensor
    indices: Tensor
    shares: tuple[Share, ...] = ()


def distance_ids(places: Tensor, heads: Tensor, reach: int) -> Tensor:
    """Return ids of the distances of places from heads: ``reach + 1`` at a head, 1 and ``2 reach + 1`` at the ends.

    Example:
        >>> distance_ids(torch.arange(5), torch.tensor(1), reach=2).tolist()
        [2, 3, 4, 5, 5]
    """
    return (places - heads).clamp(-reach, reach) + reach + 1


class RelationStore(TextStore):
    """The ids of N sentences one behind the other, and where their entities are.

    Args:
        ids, offsets, labels: see `TextStore`.
        heads: ``(N, 2)`` int64, the last word of each entity, counted from the sentence's first.
        bags: ``(N)`` int64, see `RelationBatch`.
        reach: the greatest distance that has an id of its own.
    """

    def __init__(self, ids: Tensor, offsets: Tensor, labels: Tensor, heads: Tensor, bags: Tensor, reach: int) -> None:
        super().__init__(ids, offsets, labels)
        self.heads, self.bags, self.reach = heads, bags, reach

    @override
    def take(self, indices: Tensor) -> Tensor:
        """Return ``(B, 4, T)`` int64: what `RelationBatch.tokens` has, and in the last row the bag at every place."""
        tokens = super().take(indices)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        here = places < self.lengths[indices].unsqueeze(1)
        found = [distance_ids(places, head.unsqueeze(1), self.reach) for head in self.heads[indices].unbind(1)]
        distances = [torch.where(here, each, PAD) for each in found]
        return torch.stack([tokens, *distances, self.bags[indices].unsqueeze(1).expand_as(tokens)], dim=1)

    @override
    def on(self, device: torch.device) -> RelationStore:
        moved = super().on(device)
        if moved is self:
            return self
        return RelationStore(
            moved.ids, moved.offsets, moved.labels, self.heads.to(device), self.bags.to(device), self.reach
        )
