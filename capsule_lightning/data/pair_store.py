"""Pairs of sentences in memory, as texts and as ids."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.data.text_store import TextStore
from capsule_lightning.data.tokens import BEGIN, END, PAD
from capsule_lightning.data.vocabulary import Vocabulary


class PairStore:
    """N pairs of sentences; it stays on the host.

    Args:
        sources, targets: the sentences.

    Attributes:
        labels: ``(N)`` int64, a digest of each pair: a resumed run knows by them whether its data have changed.
        lengths: ``(N, 2)`` int64, ids of each source and target, without those for beginning and end; known once they
            are encoded.
    """

    def __init__(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        self.sources, self.targets = sources, targets
        pairs = zip(sources, targets, strict=True)
        digests = (blake2b("\t".join(pair).encode(errors="backslashreplace"), digest_size=8).digest() for pair in pairs)
        self.labels = torch.tensor([int.from_bytes(each, signed=True) for each in digests], dtype=torch.int64)
        self.lengths = torch.empty(0, 2, dtype=torch.int64)
        self._sides: tuple[TextStore, TextStore] | None = None

    def __len__(self) -> int:
        """Return the number of pairs, N."""
        return len(self.sources)

    def encode(self, vocabulary: Vocabulary, most: int) -> None:
        """Turn the texts into ids, unless that has been done.

        Args:
            vocabulary: of both languages.
            most: ids of a sentence, of which a longer one keeps so many.
        """
        if self._sides is not None:
            return
        sources, targets = ([vocabulary.encode(text) for text in side] for side in (self.sources, self.targets))
        self.lengths = torch.tensor([[len(one), len(other)] for one, other in zip(sources, targets, strict=True)])
        self._sides = (
            TextStore.of([[*ids[:most], END] for ids in sources], self.labels),
            TextStore.of([[BEGIN, *ids[:most], END] for ids in targets], self.labels),
        )

    def take(self, indices: Tensor) -> Tensor:
        """Return pairs ``(B, 2, L)`` int64: sources that end with `END`, targets from `BEGIN` to `END`, then `PAD`."""
        assert self._sides is not None
        sides = [side.take(indices) for side in self._sides]
        width = max(side.shape[1] for side in sides)
        return torch.stack([F.pad(side, (0, width - side.shape[1]), value=PAD) for side in sides], dim=1)

    def on(self, device: torch.device) -> PairStore:
        """Return the store itself."""
        return self
