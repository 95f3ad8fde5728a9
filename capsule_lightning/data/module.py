"""The contract of every data set, whatever its examples are, and all that they share."""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from capsule_lightning.data.loader import ExactLoader, Store
from capsule_lightning.data.partners import PartnerLoader
from capsule_lightning.data.shares import of_mean_one
from capsule_lightning.data.split_record import KEY, SplitRecord, digest_of, parted, read_record
from capsule_lightning.data.stratified import split_off
from capsule_lightning.errors import InputError, require
from capsule_lightning.runs.plain_values import stated

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
        balanced: train on each class as often: each epoch draws as many examples as there are, with replacement, the
            class first. It depends on ``seed`` and epoch alone, as the usual order does.

    Attributes:
        class_names: names of the classes, in the order of their numbers.
        stores: the stores opened so far, by split.

    Raises:
        InputError: values out of range; data missing or not as expected (in ``prepare_data`` and ``setup``).
    """

    class_names: Sequence[str]
    for_task: ClassVar[str | None] = None
    """Name of the task that its batches are for, if they have no classes."""
    example_name: ClassVar[str] = "image"
    """What one example is called."""

    def __init__(
        self,
        batch_size: int = 128,
        val_size: float | int = 0.1,
        seed: int | None = None,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # also those of the subclass; see `capsule_lightning.data.trained_on`
        given = of_class(type(self), stated(self.hparams))  # plain values, which every trainer may load again
        self.hparams.clear()
        self.hparams.update(given)
        require(batch_size >= 1, f"batch_size={batch_size}: expected at least 1 example a step")
        whole = not isinstance(val_size, float) or val_size < 1 or val_size.is_integer()
        require(val_size >= 0 and whole, f"val_size={val_size}: expected 0, a fraction below 1 or a number of examples")
        require(
            seed is None or 0 <= seed < 2**32,
            f"seed={seed}: expected 0 to {2**32 - 1}, or null for that of --seed_everything",
        )
        self.batch_size, self.val_size, self.balanced = batch_size, val_size, balanced
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed  # set by seed_everything
        self.stores: dict[str, Store] = {}
        self._train = self._val = torch.empty(0, dtype=torch.int64)
        self._record: SplitRecord | None = None
        self._weights: Tensor | None = None  # of the training set's examples, as far as they are being trained on

    @override
    def __str__(self) -> str:
        return self.describe()

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
    def mixes(self) -> bool:
        """Whether the augmentation mixes each training example with another one."""
        return False

    def example_weights(self) -> Tensor | None:
        """Return how much each example of the training set counts in the loss, ``(N)``; None for all the same.

        Only their ratios matter: they are divided by their mean over the examples to train on.
        """
        return None

    @property
    def is_weighted(self) -> bool:
        """Whether examples count differently in the loss; known after ``setup("fit")``."""
        return self.example_weights() is not None

    def weights_of(self, indices: Tensor) -> Tensor | None:
        """Return the weights of training examples at ``indices (B, ...)``, of mean 1; None if all count the same."""
        if self._weights is None:
            return None
        self._weights = self._weights.to(indices.device)
        return self._weights[indices]

    @property
    def steps_per_epoch(self) -> int:
        """Training batches an epoch, of all processes together; known after ``setup("fit")``."""
        return len(self._train) // self.batch_size

    def class_counts(self) -> Tensor:
        """Return how many examples of each class are trained on, ``(J)`` int64; known after ``setup("fit")``."""
        labels = self.store("train").labels.cpu()[self._train]
        return torch.bincount(labels[labels >= 0], minlength=self.num_classes)

    def learned(self) -> dict[str, Any]:
        """Return those arguments that the data to train on have settled, so that a network's file states them."""
        return {}

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
            self.use_split(*self.hold_out(self.store("train").labels))

    def use_split(self, train: Tensor, val: Tensor) -> None:
        """Train and validate on some examples of the training set.

        Args:
            train, val: their places, int64.

        Raises:
            InputError: there are fewer to train on than a batch has.
        """
        if self.batch_size > len(train):
            raise InputError(
                f"batch_size={self.batch_size} but only {len(train)} training examples: "
                f"set --data.batch_size to at most {len(train)}"
            )
        self._train, self._val, self._record = train, val, None

    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices of the examples to train on and of those to validate on, as ``val_size`` says."""
        return split_off(labels, self.val_size, self.seed, class_names=self.class_names)

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
        weights = self.example_weights()
        self._weights = None if weights is None else of_mean_one(weights, self._train)
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
        return self.kind_of_loader(training)(
            store,
            torch.arange(len(store)) if subset is None else subset,
            self.batch_size,
            training=training,
            num_draws=self.num_draws,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            balanced=training and self.balanced,
        )

    def kind_of_loader(self, training: bool) -> type[ExactLoader]:
        """Return what gives out batches."""
        return PartnerLoader if training and self.mixes else ExactLoader

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

    @property
    def damaged(self) -> Mapping[int, str]:
        """Why images to predict, of those that this process has met, could not be read, by their places."""
        found: Mapping[int, str] = getattr(self.stores.get("predict"), "damaged", {})
        return found

    def describe(self) -> str:
        """Return what has been read so far, in a few lines for a person."""
        return f"{type(self).__name__}: {self.num_classes} classes, inputs {self.in_shape}; {self.describe_splits()}"

    def describe_splits(self) -> str:
        """Return how many examples each split has, as far as they have been opened."""
        parts = [f"{len(self._train):,} to train on"] if len(self._train) else []
        parts += [f"{len(self._val):,} to validate on{self.origin_of('val')}"] if len(self._val) else []
        parts += [f"{len(self.stores['test']):,} to test on{self.origin_of('test')}"] if "test" in self.stores else []
        return ", ".join(parts) or "nothing is read yet"

    def origin_of(self, part: str) -> str:
        """Return in parentheses what chose the examples of ``val`` or ``test``; empty if it goes without saying."""
        return f" (--data.val_size {self.val_size})" if part == "val" else ""

    # The split belongs to the run: its checkpoints hold it.

    @property
    def is_trained_on(self) -> bool:
        """Whether training is what the data are needed for, as opposed to measuring a trained network."""
        return self.trainer is None or bool(self.trainer.training)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return which examples are trained and validated on; the loader keeps its own position."""
        if not len(self._train):
            return {}
        if self._record is None:
            self._record = self.record_split()
        return {KEY: self._record.plain()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Train and validate on what the run has trained and validated on, and say what differs.

        Raises:
            InputError: the state is not one of a data module.
        """
        if isinstance(state_dict, dict) and KEY in state_dict:
            self.restore_split(read_record(state_dict[KEY]))

    def record_split(self) -> SplitRecord:
        """Return the split as plain values."""
        labels = self.store("train").labels
        return SplitRecord(self.seed, self._val.clone(), len(labels), digest_of(labels), {})

    def restore_split(self, record: SplitRecord) -> None:
        """Take over the split of a run, unless the training set is another one."""
        if not len(self._train):
            return
        labels = self.store("train").labels
        if (len(labels), digest_of(labels)) != (record.size, record.labels):
            rank_zero_info(
                f"the training set has changed since this run began: {record.size:,} examples then, {len(labels):,} "
                "now, or other labels. Those to validate on are chosen again: some may have been trained on"
            )
            return
        self.take_over(record, torch.arange(len(labels)))

    def take_over(self, record: SplitRecord, keys: Tensor, is_told: bool = False) -> None:
        """Take over seed and split of a record.

        Args:
            record: of a run.
            keys: ``(N)`` int64, keys of the training set's examples, see `SplitRecord`.
            is_told: whether it has been said already that the split is another one.
        """
        if self.is_trained_on and self.seed != record.seed:
            rank_zero_info(
                f"this run began with seed {record.seed}, which its split, order and augmentation keep: "
                f"seed_everything={self.seed} does not change them"
            )
            self.seed = record.seed
        train, val = parted(keys, record.val)
        if not (is_told or torch.equal(val, self._val)):
            rank_zero_info(
                f"the {len(val):,} examples to validate on are those that this run began with, and not the "
                f"{len(self._val):,} that seed and val_size={self.val_size} now choose"
            )
        if not (torch.equal(val, self._val) and torch.equal(train, self._train)):
            self.use_split(train, val)


def of_class(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a class, of those that its constructor and the constructors of its bases were given.

    Args:
        cls: the class.
        given: arguments by name; what Lightning notes beside them begins with an underscore, and stays.
    """
    known = inspect.signature(cls).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in known):
        return dict(given)
    names = {each.name for each in known}
    return {name: value for name, value in given.items() if name in names or name.startswith("_")}
