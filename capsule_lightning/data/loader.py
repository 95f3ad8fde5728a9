"""Batches from a store, the same on any number of processes, resumable in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import tee
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class StoredBatch(NamedTuple):
    """What the loader yields; the data module makes of it, on the device, what a task receives.

    Attributes:
        inputs: ``(B, ...)``, as stored: images ``(B, C, H, W)`` uint8, or ``(B, L, C, H, W)`` from a loader that puts L
            of them together.
        labels: ``(B)`` int64, or ``(B, L)``; ``(B, L)`` of a store whose examples have several.
        indices: ``(B)`` int64, positions in the store; those of the first if there are L.
        draws: ``(B, K)`` float32 in [0, 1), the random numbers of each example's augmentation; None in evaluation
            without chance. A `PartnerLoader` gives inputs, labels, indices and draws ``(B, 2, ...)``.
    """

    inputs: Tensor
    labels: Tensor
    indices: Tensor
    draws: Tensor | None


class Store(Protocol):
    """Where a loader takes examples from: memory, or files that are read when asked for.

    Attributes:
        labels: ``(N)`` int64, on the device where batches are put together; ``(N, L)`` if examples may have several.
    """

    labels: Tensor

    def __len__(self) -> int:
        """Return the number of examples, N."""

    def take(self, indices: Tensor) -> Tensor:
        """Return the inputs ``(B, ...)`` at ``indices (B)`` int64, both on the device of the labels."""

    def on(self, device: torch.device) -> Store:
        """Return the store whose batches are put together on a device, or itself if it should stay where it is."""


@runtime_checkable
class ReadingAhead(Protocol):
    """A store that reads the next batches while one is trained on."""

    def in_turn(self, wanted: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the inputs of batches of indices ``(B)``, in their order.

        Args:
            wanted: the batches, of which only the next few are asked for ahead.

        Yields:
            The inputs ``(M, ...)``, and which of the B examples they are of, ``(M)`` int64; None for all of them.
        """


class MemoryStore:
    """Examples in one tensor, which may be memory-mapped, on any device.

    Batches are put together where the tensor is: on a GPU, without a copy from the host at any step.

    Args:
        inputs: ``(N, ...)``, such as images ``(N, C, H, W)`` uint8.
        labels: ``(N)`` int64, on the same device.
    """

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        """Return the number of examples, N."""
        return len(self.labels)

    def take(self, indices: Tensor) -> Tensor:
        """Return the inputs ``(B, ...)`` at ``indices (B)``."""
        return self.inputs.index_select(0, indices)  # copies rows: twenty times as fast as inputs[indices]

    def on(self, device: torch.device) -> MemoryStore:
        """Return the store moved to the host, or to a GPU if it takes little of its memory; otherwise itself."""
        if device == self.labels.device or not (device.type == "cpu" or fits(self.inputs, device)):
            return self
        return MemoryStore(self.inputs.to(device), self.labels.to(device))


def fits(inputs: Tensor, device: torch.device) -> bool:
    """Return whether a tensor may stay on a device: on a GPU, if it takes at most a tenth of its free memory."""
    return device.type == "cuda" and 10 * inputs.nbytes <= torch.cuda.mem_get_info(device)[0]


class ExactLoader:
    """Yields `StoredBatch`es of a subset of a store, in an order and with random numbers that nothing else changes.

    ``batch_size`` is the global one: each process takes its share of each batch. The order of an epoch and the random
    numbers of each example are functions of seed and epoch alone, so that neither the number of processes nor an
    interruption changes what is trained on. Training drops an incomplete last batch; evaluation counts each example
    exactly once, with shares of unequal size if the number of processes does not divide the number of examples.

    Args:
        store: where inputs and labels come from.
        subset: ``(M)`` int64, which of the N examples to go through.
        batch_size: batch size of all processes together.
        training: whether to shuffle, to draw random numbers, and to drop an incomplete last batch.
        num_draws: K, random numbers of each example.
        seed: seed of order and draws.
        rank: number of this process.
        world_size: number of processes.
        balanced: whether training draws as many examples as the subset has with replacement, see `draw_balanced`.
    """

    batch_sampler = None  # the trainer looks for it beside `sampler`

    def __init__(
        self,
        store: Store,
        subset: Tensor,
        batch_size: int,
        *,
        training: bool = False,
        num_draws: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        balanced: bool = False,
    ) -> None:
        self.store, self.subset = store, subset
        self.classes = store.labels.cpu()[subset] if balanced else None
        self.batch_size, self.training, self.num_draws, self.seed = batch_size, training, num_draws, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.position = 0  # batches of the running epoch already yielded
        self._start = 0  # where the next iteration begins: beyond 0 only after `load_state_dict`

    @property
    def sampler(self) -> ExactLoader:
        """The loader itself: the trainer calls ``sampler.set_epoch`` at the start of every epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the draws of an epoch; an epoch other than the current one begins at its start."""
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def __len__(self) -> int:
        """Return the number of batches an epoch, of this process."""
        if self.training:
            return len(self.subset) // self.batch_size
        mine = len(range(self.rank, len(self.subset), self.world_size))
        return -(-mine // -(-self.batch_size // self.world_size))

    def __iter__(self) -> Iterator[StoredBatch]:
        """Yield the batches of the epoch: all of them or, once after `load_state_dict`, those that remain."""
        start, self._start = self._start, 0
        order, draws = self.plan()
        if self.training:
            used, size = len(self) * self.batch_size, self.batch_size // self.world_size
        else:
            used, size = len(order), -(-self.batch_size // self.world_size)
        share = slice(self.rank, used, self.world_size)
        device = self.store.labels.device
        order, draws = order[share].to(device), None if draws is None else draws[share].to(device)
        places = [slice(number * size, (number + 1) * size) for number in range(start, len(self))]
        batches = self.batches((order[here], None if draws is None else draws[here]) for here in places)
        for number, batch in enumerate(batches, start):
            self.position = (number + 1) % len(self)  # before the yield: a checkpoint is taken while this batch is out
            yield batch

    def plan(self) -> tuple[Tensor, Tensor | None]:
        """Return the indices ``(M)`` of the epoch in their order and draws ``(M, K)``, of all processes together."""
        if not self.training:
            return self.subset, None
        random = self.random(self.epoch)
        if self.classes is None:
            places = torch.randperm(len(self.subset), generator=random)
        else:
            places = draw_balanced(self.classes, random)
        order = self.subset[places]
        return order, torch.rand(len(order), self.num_draws, generator=random)

    def batches(self, wanted: Iterable[tuple[Tensor, Tensor | None]]) -> Iterator[StoredBatch]:
        """Yield the batches of pairs of indices ``(B)`` and draws ``(B, K)``, read ahead if the store can."""
        if not isinstance(self.store, ReadingAhead):
            yield from (self.batch(indices, draws) for indices, draws in wanted)
            return
        ahead, here = tee(wanted)
        read = self.store.in_turn(indices for indices, _ in ahead)
        for (inputs, kept), (indices, draws) in zip(read, here, strict=True):
            if kept is not None:
                indices, draws = indices[kept], None if draws is None else draws[kept]
            yield StoredBatch(inputs, self.store.labels[indices], indices, draws)

    def batch(self, indices: Tensor, draws: Tensor | None) -> StoredBatch:
        """Return the batch of indices ``(B)`` and draws ``(B, K)``."""
        return StoredBatch(self.store.take(indices), self.store.labels[indices], indices, draws)

    def random(self, epoch: int) -> torch.Generator:
        """Return the generator of an epoch's random numbers."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)

    def state_dict(self) -> dict[str, int]:
        """Return epoch and position, for the checkpoint."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where the checkpoint was taken."""
        self.epoch, self.position = state["epoch"], state["position"]
        self._start = self.position


def draw_balanced(classes: Tensor, random: torch.Generator) -> Tensor:
    """Draw as many examples as there are, with replacement: first a class, each as likely, then one of its examples.

    Args:
        classes: ``(M)`` int64, the class of each example; classes without examples are not drawn.
        random: on the host.

    Returns:
        ``(M)`` int64, places in ``classes``.

    Source: Shen, Lin & Huang, Relay Backpropagation for Effective Learning of Deep Convolutional Neural Networks, ECCV
    2016 (arXiv 1512.05830), class-aware sampling; they go through shuffled lists where we draw.

    Example:
        >>> rare = torch.tensor([0] * 99 + [1])
        >>> 30 < (draw_balanced(rare, torch.Generator().manual_seed(0)) == 99).sum() < 70
        tensor(True)
    """
    by_class = classes.argsort(stable=True)
    counts = classes.bincount()
    counts = counts[counts > 0]
    drawn = torch.randint(len(counts), (len(classes),), generator=random)
    within = torch.rand(len(classes), generator=random, dtype=torch.float64) * counts[drawn]
    return by_class[(counts.cumsum(dim=0) - counts)[drawn] + within.long()]
