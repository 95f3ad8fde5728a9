"""Training examples in pairs, the same on any number of processes."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.loader import ExactLoader, StoredBatch

_PARTNERS = -3  # where an epoch's number is asked for: the partners of epoch e have the random numbers of -3 - e


class PartnerLoader(ExactLoader):
    """Yields each example of a training epoch with a partner, for augmentations that mix two.

    The partners are the examples of the epoch in another order, a random one: each is a partner once, with the random
    numbers that it has itself, and if classes are balanced, so are they. Order, draws and partners are functions of
    seed and epoch alone; the order and the draws are those of the epoch without partners.

    Its batches hold ``inputs (B, 2, ...)``, ``labels (B, 2)`` or ``(B, 2, L)``, ``indices (B, 2)`` and
    ``draws (B, 2, K)``, the example first.
    """

    @override
    def plan(self) -> tuple[Tensor, Tensor]:
        """Return the indices ``(M, 2)`` of the epoch and draws ``(M, 2, K)``, of all processes together."""
        order, draws = super().plan()
        assert draws is not None  # in training
        partners = torch.randperm(len(order), generator=self.random(_PARTNERS - self.epoch))
        return torch.stack([order, order[partners]], dim=1), torch.stack([draws, draws[partners]], dim=1)

    @override
    def batch(self, indices: Tensor, draws: Tensor | None) -> StoredBatch:
        inputs = self.store.take(indices.flatten())
        return StoredBatch(inputs.view(*indices.shape, *inputs.shape[1:]), self.store.labels[indices], indices, draws)
