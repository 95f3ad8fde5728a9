"""The contract of every data set, whatever its examples are, and all that they share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.loader import ExactLoader, Store
from capsule_lightning.errors import InputError, require

Split = Literal["train", "test"]


class DataModule(L.LightningDataModule, ABC):
    """Labeled examples: opened once, split, and given out in batches that do not depend on the number of processes.

    A subclass states ``class_names``, ``in_shape`` and, if it augments, ``num_draws``; it opens a `Store` for each
    split, and its ``on_after_batch_transfer`` turns a `StoredBatch` into what a task receives: a tuple whose first
    tensor is the network's input. For images see `ImageDataModule`.

    Args:
        batch_size: examples a step, of all processes together.
        val_size: examples held out of the training set for validation, a number or a fraction; 0 to train on all.
            The split is stratified and depends on ``seed`` alone.
        seed: seed of the split, the order and the augmentation; null for that of ``seed_everything``, or else 0.

    Attributes:
        class_names: names of the classes, in the order of their numbers.
        stores: the stores opened so far, by split.

    Raises:
        InputError: values out of range; data missing or not as expected (in ``prepare_data`` and ``setup``).
    """

    class_names: Sequence[str]

    def __init__(self, batch_size: int = 128, val_size: float | int = 0.1, seed: int | None = None) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # also those of the subclass; see `capsule_lightning.data.trained_on`
        require(batch_size >= 1, f"batch_size={batch_size}: expected at least 1 example a step")
        whole = not isinstance(val_size, float) or val_size < 1 or val_size.is_integer()
        require(val_size >= 0 and whole, f"val_size={val_size}: expected 0, a fraction below 1 or a number of examples")
        require(
            seed is None or 0 <= seed < 2**32,
            f"seed={seed}: expected 0 to {2**32 - 1}, or null for that of --seed_everything",
        )
        self.batch_size, self.val_size = batch_size, val_size
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed  # set by seed_everything
        self.stores: dict[str, Store] = {}
        self._train = self._val = torch.empty(0, dtype=torch.int64)

    @property
    @abstractmethod
    def in_shape(self) -> tuple[int, ...]:
        """Shape of one input of the network."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def num_draws(self) -> int:
        """Random numbers that the augmentation of a training example takes."""
        return 0

    @property
    def steps_per_epoch(self) -> int:
        """Training batches an epoch, of all processes together; known after ``setup("fit")``."""
        return len(self._train) // self.batch_size

    @abstractmethod
    def open(self, split: Split) -> Store:
        """Return all examples of a split, from disk; called by every process, after ``prepare_data`` on one."""

    def store(self, split: Split) -> Store:
        """Return the store of a split, opened when it is first asked for."""
        if split not in self.stores:
            self.stores[split] = self.open(split)
        return self.stores[split]

    @override
    def setup(self, stage: str | None = None) -> None:
        """Open what the stage needs, and split it."""
        if stage in ("test", "predict", None):
            self.store("test")
        if stage in ("fit", "validate", None) and not len(self._train):
            self._train, self._val = self.hold_out(self.store("train").labels)
            if self.batch_size > len(self._train):
                raise InputError(
                    f"batch_size={self.batch_size} but only {len(self._train)} training examples: "
                    f"set --data.batch_size to at most {len(self._train)}"
                )

    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices of the examples to train on and of those to validate on, as ``val_size`` says."""
        return split_off(labels, self.val_size, self.seed)

    def require_whole_shares(self, processes: int) -> None:
        """Refuse a batch that the processes cannot divide among them.

        Raises:
            InputError: ``batch_size`` is not a multiple of ``processes``.
        """
        require(
            self.batch_size % processes == 0,
            f"batch_size={self.batch_size} is the batch of all {processes} processes together: "
            f"choose a multiple of {processes}",
        )

    @override
    def train_dataloader(self) -> ExactLoader:
        """Return the training examples, shuffled and augmented."""
        self.require_whole_shares(self.process[1])
        return self.loader("train", self._train, training=True)

    @override
    def val_dataloader(self) -> ExactLoader | list[ExactLoader]:
        """Return the held-out examples of the training set; an empty list if ``val_size`` is 0."""
        return self.loader("train", self._val) if len(self._val) else []

    @override
    def test_dataloader(self) -> ExactLoader:
        return self.loader("test")

    @override
    def predict_dataloader(self) -> ExactLoader:
        """Return the examples given for prediction, or else the test set."""
        return self.loader("predict" if "predict" in self.stores else "test")

    def loader(self, split: str, subset: Tensor | None = None, training: bool = False) -> ExactLoader:
        """Return a loader of a split.

        Args:
            split: a key of ``stores``.
            subset: ``(M)`` int64, which examples; None for all.
            training: see `ExactLoader`.
        """
        store, (rank, world_size) = self.placed(split), self.process
        return ExactLoader(
            store,
            torch.arange(len(store)) if subset is None else subset,
            self.batch_size,
            training=training,
            num_draws=self.num_draws,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )

    def placed(self, split: str) -> Store:
        """Return the store of a split, on the trainer's device from now on if it may be there."""
        if self.trainer is not None:
            self.stores[split] = self.stores[split].on(self.trainer.strategy.root_device)
        return self.stores[split]

    @property
    def process(self) -> tuple[int, int]:
        """Rank of this process, and number of all."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def name_of(self, index: int) -> str:
        """Return the name of an example of a test or a prediction: its number, unless a subclass knows better."""
        return str(index)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return nothing: order and augmentation are functions of the seed; the loader keeps its own position."""
        return {}


def split_off(labels: Tensor, size: float | int, seed: int, option: str = "val_size") -> tuple[Tensor, Tensor]:
    """Split a set, stratified by label.

    Args:
        labels: ``(N)`` int64.
        size: size of the part split off, a number of examples or a fraction of N.
        seed: chooses the examples.
        option: the option that sets ``size``, for the error.

    Returns:
        Indices of what remains and of what is split off, both in ascending order.

    Raises:
        InputError: the size leaves a class without examples on one side.
    """
    indices = torch.arange(len(labels))
    count = round(size * len(labels)) if 0 < size < 1 else int(size)
    if count == 0:
        return indices, indices[:0]
    counts = labels.bincount()
    classes, rarest = int((counts > 0).sum()), int(counts[counts > 0].min())
    if rarest < 2 or not classes <= count <= len(labels) - classes:
        raise InputError(
            f"{option}={size}: cannot split {count} of {len(labels)} examples off, each of {classes} classes on both "
            f"sides, the smallest of {rarest}: expected {classes} to {len(labels) - classes}; change --data.{option}"
        )
    from sklearn.model_selection import train_test_split

    kept, taken = train_test_split(indices.numpy(), test_size=count, random_state=seed, stratify=labels.numpy())
    return torch.from_numpy(kept).sort().values, torch.from_numpy(taken).sort().values
