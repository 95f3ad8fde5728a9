"""Pairs of sentences in memory, as texts and as ids."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from capsule_lightning.data.text_store import TextStore
from capsule_lightning.data.tokens import BEGIN, END, PAD
from capsule_lightning.data.vocabulary import Vocabulary


class PairStore:
    """N pairs of sentences; it stays on the host.

    Args:
        sources, targets: the sentences.

    Attributes:
        labels: ``(N)`` int64, a digest of each pair: a resumed run knows by them whether its data have changed.
    """

    def __init__(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        self.sources, self.targets = sources, targets
        pairs = zip(sources, targets, strict=True)
        digests = (blake2b("\t".join(pair).encode(errors="backslashreplace"), digest_size=8).digest() for pair in pairs)
        self.labels = torch.tensor([int.from_bytes(each, signed=True) for each in digests], dtype=torch.int64)
        self._sides: tuple[TextStore, TextStore] | None = None
        self._most = 0

    def __len__(self) -> int:
        """Return the number of pairs, N."""
        return len(self.sources)

    def encode(self, vocabulary: Vocabulary, most: int) -> None:
        """Turn the texts into ids, unless that has been done.

        Args:
            vocabulary: of both languages.
            most: ids of a sentence; only a longer source is cut to them, see `take`.
        """
        if self._sides is None:
            sides = ([vocabulary.encode(text) for text in side] for side in (self.sources, self.targets))
            self._sides = tuple(TextStore.of(side, self.labels) for side in sides)  # type: ignore[assignment]
            self._most = most

    @property
    def lengths(self) -> Tensor:
        """Ids of each source and target, ``(N, 2)``, without those for beginning and end."""
        assert self._sides is not None
        return torch.stack([side.lengths for side in self._sides], dim=1)

    def take(self, indices: Tensor) -> Tensor:
        """Return pairs as ``(B, 2, L)`` int64: sources that end with `END`, targets from `BEGIN` to `END`, then `PAD`.

        What is longer than the most ids of a sentence ends there.
        """
        assert self._sides is not None
        sources, targets = (side.take(indices)[:, : self._most] for side in self._sides)
        lengths = self.lengths[indices].clamp_max(self._most)
        rows = torch.full((len(indices), 2, int(lengths.max() if len(indices) else 0) + 2), PAD)
        rows[:, 0, : sources.shape[1]] = sources
        rows[:, 1, 0] = BEGIN
        rows[:, 1, 1 : 1 + targets.shape[1]] = targets
        places = torch.arange(len(indices))
        rows[places, 0, lengths[:, 0]] = END
        rows[places, 1, 1 + lengths[:, 1]] = END
        return rows

    def on(self, device: torch.device) -> PairStore:
        """Return the store itself."""
        return self
