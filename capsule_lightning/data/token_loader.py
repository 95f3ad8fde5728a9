"""Batches of pairs of sentences of like length, each of about as many tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.loader import ExactLoader, Store, StoredBatch
from capsule_lightning.data.targets import TranslationBatch
from capsule_lightning.data.tokens import PAD
from capsule_lightning.errors import require

ROWS = 8
"""A batch has a multiple of this number of sentences, so that up to as many processes can share each batch."""
_STREAM = 500_009  # of the order of the batches, beside that of the sentences


def cut_by_tokens(lengths: Tensor, most: int) -> list[int]:
    """Return where batches end if sentences come in ascending order of their lengths.

    A batch has the greatest multiple of `ROWS` sentences of which that many, times the longest, are at most ``most``
    tokens; at least `ROWS`. Up to ``ROWS - 1`` sentences that are left over at the end join the last batch.

    Args:
        lengths: ``(N)`` int64, ascending.
        most: tokens of a batch, padding included.

    Example:
        >>> cut_by_tokens(torch.tensor([2] * 20 + [10] * 9), 40)
        [16, 29]
    """
    ends: list[int] = []
    start, sizes = 0, lengths.tolist()
    while start < len(sizes):
        end = start + ROWS
        while end + ROWS <= len(sizes) and (end + ROWS - start) * sizes[end + ROWS - 1] <= most:
            end += ROWS
        ends.append(end)
        start = end
    if ends and ends[-1] > len(sizes):  # fewer than ROWS are left over
        ends[-2:] = [len(sizes)]
    return ends


def short_enough(lengths: Tensor, most: int) -> Tensor:
    """Return places ``(M)`` of the pairs of which no side is longer than ``most`` tokens.

    Args:
        lengths: ``(N, 2)`` int64, tokens of both sides.
        most: see `PairStore.encode`.

    Raises:
        InputError: there are pairs, but none is.
    """
    kept = (lengths <= most).all(dim=1).nonzero()[:, 0]
    require(
        not len(lengths) or len(kept),
        f"max_length={most}: every pair is longer, the shortest has "
        f"{int(lengths.amax(dim=1).min()) if len(lengths) else 0} tokens; raise --data.max_length",
    )
    return kept


def cut_to_longest(batch: StoredBatch) -> TranslationBatch:
    """Return sources and targets, each as wide as the longest of the batch; on the host."""
    source, target = (side[:, : max(1, int((side != PAD).sum(dim=1).max()))] for side in batch.inputs.unbind(1))
    return TranslationBatch(source, target, batch.indices)


class TokenLoader(ExactLoader):
    """An `ExactLoader` whose training batches have about as many tokens, and sentences of like length.

    The cuts between batches depend on the lengths alone, so that every epoch has as many batches. Which sentences of
    the same length meet, and the order of the batches, are functions of seed and epoch. No sentence is left out. Each
    process takes every nth sentence of a batch. Evaluation goes from short sentences to long ones, ``batch_size`` at a
    time.

    Args:
        store: of the pairs.
        subset: ``(M)`` int64, which of them.
        batch_size: sentences of a batch in evaluation.
        lengths: ``(N)`` int64, tokens of each of the store's pairs, the longer side of it.
        batch_tokens: tokens of a training batch, of all processes together.
        options: see `ExactLoader`.
    """

    def __init__(
        self, store: Store, subset: Tensor, batch_size: int, *, lengths: Tensor, batch_tokens: int, **options: Any
    ) -> None:
        self.lengths = lengths[subset]
        by_length = self.lengths.argsort(stable=True)
        super().__init__(store, subset[by_length], batch_size, **options)
        self.lengths = self.lengths[by_length]
        self.ends = cut_by_tokens(self.lengths, batch_tokens) if self.training else []

    @override
    def __len__(self) -> int:
        return len(self.ends) if self.training else super().__len__()

    @override
    def __iter__(self) -> Iterator[StoredBatch]:
        if not self.training:
            yield from super().__iter__()
            return
        start, self._start = self._start, 0
        chosen = self.chosen()
        wanted = ((indices[self.rank :: self.world_size], None) for indices in chosen[start:])
        for number, batch in enumerate(self.batches(wanted), start):
            self.position = (number + 1) % len(self)  # before the yield, see `ExactLoader`
            yield batch

    def chosen(self) -> list[Tensor]:
        """Return the indices of each batch of the epoch, of all processes together."""
        places = torch.randperm(len(self.subset), generator=self.random(self.epoch))
        places = places[self.lengths[places].argsort(stable=True)]  # chance decides among sentences of one length
        starts = [0, *self.ends[:-1]]
        batches = [self.subset[places[start:end]] for start, end in zip(starts, self.ends, strict=True)]
        order = torch.randperm(len(batches), generator=self.random(self.epoch + _STREAM))
        return [batches[number] for number in order.tolist()]
