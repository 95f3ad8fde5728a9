"""Batches from memory, the same on any number of processes, resumable in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class StoredBatch(NamedTuple):
    """What the loader yields; `ImageDataModule` makes an `ImageBatch` of it on the device.

    Attributes:
        images: ``(B, C, H, W)`` uint8, as stored; ``(B, L, C, H, W)`` from a loader that puts L images together.
        labels: ``(B)`` int64, or ``(B, L)``.
        indices: ``(B)`` int64, positions in the stored set; of the first where there are L.
        draws: ``(B, K)`` float32 in [0, 1), the random numbers of each image's augmentation; None in evaluation
            without chance.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    draws: Tensor | None


class InMemoryLoader:
    """Yields `StoredBatch`es of a subset of stored images.

    ``batch_size`` is the global one: each process takes its share of each batch. The order of an epoch and the random
    numbers of each image are functions of seed and epoch alone, so that neither the number of processes nor an
    interruption changes what is trained on. Training drops an incomplete last batch; evaluation counts each image
    exactly once, with shares of unequal size where the processes do not divide the images.

    Batches are put together where the images are: of images on a GPU, without a copy from the host at any step.

    Args:
        images: ``(N, C, H, W)`` uint8, may be memory-mapped, on any device.
        labels: ``(N)`` int64, on the same device.
        subset: ``(M)`` int64, which of the N to go through.
        batch_size: of all processes together.
        training: shuffled, augmented, without an incomplete last batch.
        num_draws: K, random numbers an image.
        seed: of order and draws.
        rank: of this process.
        world_size: number of processes.
    """

    batch_sampler = None  # the trainer looks for it beside `sampler`

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        subset: Tensor,
        batch_size: int,
        *,
        training: bool = False,
        num_draws: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images, self.labels, self.subset = images, labels, subset
        self.batch_size, self.training, self.num_draws, self.seed = batch_size, training, num_draws, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.position = 0  # batches of the running epoch already yielded
        self._start = 0  # where the next iteration begins: beyond 0 only after `load_state_dict`

    @property
    def sampler(self) -> InMemoryLoader:
        """Itself: the trainer calls ``sampler.set_epoch`` at the start of every epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the draws of an epoch; another epoch than the current one begins at its start."""
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def __len__(self) -> int:
        """Batches an epoch, of this process."""
        if self.training:
            return len(self.subset) // self.batch_size
        mine = len(range(self.rank, len(self.subset), self.world_size))
        return -(-mine // -(-self.batch_size // self.world_size))

    def __iter__(self) -> Iterator[StoredBatch]:
        """The batches of the epoch, all of them or, once after `load_state_dict`, those that remain."""
        start, self._start = self._start, 0
        order, draws = self.plan()
        if self.training:
            used, size = len(self) * self.batch_size, self.batch_size // self.world_size
        else:
            used, size = len(order), -(-self.batch_size // self.world_size)
        share = slice(self.rank, used, self.world_size)
        device = self.images.device
        order, draws = order[share].to(device), None if draws is None else draws[share].to(device)
        for number in range(start, len(self)):
            here = slice(number * size, (number + 1) * size)
            self.position = (number + 1) % len(self)  # before the yield: a checkpoint is taken while this batch is out
            yield self.batch(order[here], None if draws is None else draws[here])

    def plan(self) -> tuple[Tensor, Tensor | None]:
        """Indices ``(M)`` of the epoch in their order and draws ``(M, K)``, of all processes together."""
        if not self.training:
            return self.subset, None
        random = self.random(self.epoch)
        order = self.subset[torch.randperm(len(self.subset), generator=random)]
        return order, torch.rand(len(order), self.num_draws, generator=random)

    def batch(self, indices: Tensor, draws: Tensor | None) -> StoredBatch:
        """The batch of indices ``(B)`` and draws ``(B, K)``."""
        images = self.images.index_select(0, indices)  # copies rows: twenty times as fast as images[indices]
        return StoredBatch(images, self.labels[indices], indices, draws)

    def random(self, epoch: int) -> torch.Generator:
        """The random numbers of an epoch."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)

    def state_dict(self) -> dict[str, int]:
        """Epoch and position, for the checkpoint."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where the checkpoint was taken."""
        self.epoch, self.position = state["epoch"], state["position"]
        self._start = self.position
