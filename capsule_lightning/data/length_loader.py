"""Batches of texts of like length, in an order that seed and epoch alone decide."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.loader import ExactLoader, Store

POOL = 64
"""Batches whose texts are sorted by length together: chance decides what meets in a batch as far as lengths allow."""
_STREAM = 500_009  # of the order of the batches, beside that of the texts: half way to the next seed's epochs


class Measured(Store, Protocol):
    """A store of examples of different lengths.

    Attributes:
        lengths: ``(N)`` int64.
    """

    lengths: Tensor


class LengthLoader(ExactLoader):
    """An `ExactLoader` that trains on batches of texts of like length; the batches are in an order of chance.

    The shuffled texts of `POOL` batches at a time are sorted by length, cut into batches, and all batches of the epoch
    are shuffled. Which texts an incomplete last batch drops is decided before that, by chance. Evaluation keeps the
    order of the texts.
    """

    store: Measured

    @override
    def plan(self) -> tuple[Tensor, Tensor | None]:
        order, draws = super().plan()
        if not self.training:
            return order, draws
        used = len(self) * self.batch_size
        lengths = self.store.lengths.cpu()[order[:used]]
        pool = torch.arange(used) // (POOL * self.batch_size)
        places = lengths.argsort(stable=True)
        places = places[pool[places].argsort(stable=True)].view(-1, self.batch_size)
        shuffled = torch.randperm(len(places), generator=self.random(self.epoch + _STREAM))
        places = places[shuffled].flatten()
        return order[places], None if draws is None else draws[places]
