"""Texts in memory as ids, as long as they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from capsule_lightning.data.loader import fits
from capsule_lightning.data.tokens import PAD


class TextStore:
    """The ids of N texts one behind the other: memory for the texts, not for the longest times their number.

    Args:
        ids: ``(T)`` int32, of all texts.
        offsets: ``(N + 1)`` int64, where each text begins, and T.
        labels: ``(N)`` or ``(N, M)`` int64.

    Attributes:
        lengths: ``(N)`` int64, ids of each text.
    """

    def __init__(self, ids: Tensor, offsets: Tensor, labels: Tensor) -> None:
        self.ids, self.offsets, self.labels = ids, offsets, labels
        self.lengths = offsets.diff()

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], labels: Tensor) -> TextStore:
        """Return a store of lists of ids, on the host."""
        lengths = torch.tensor([0, *map(len, texts)], dtype=torch.int64)
        return cls(torch.tensor([*chain.from_iterable(texts)], dtype=torch.int32), lengths.cumsum(0), labels)

    def __len__(self) -> int:
        """Return the number of texts, N."""
        return len(self.labels)

    def take(self, indices: Tensor) -> Tensor:
        """Return the ids ``(B, L)`` int64 of texts at ``indices (B)``, `PAD` behind those shorter than the longest."""
        lengths = self.lengths[indices].unsqueeze(1)  # (B, 1)
        steps = torch.arange(max(1, int(lengths.max()) if len(indices) else 1), device=self.ids.device)
        places = self.offsets[indices].unsqueeze(1) + steps
        inside = steps < lengths
        return torch.where(inside, self.ids[places.clamp_max(len(self.ids) - 1)].long(), PAD)

    def on(self, device: torch.device) -> TextStore:
        """Return the store moved to the host, or to a GPU if it takes little of its memory; otherwise itself."""
        if device == self.labels.device or not (device.type == "cpu" or fits(self.ids, device)):
            return self
        return TextStore(*(each.to(device) for each in (self.ids, self.offsets, self.labels)))
