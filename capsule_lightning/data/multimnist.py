"""MultiMNIST: two handwritten digits of different classes on top of each other.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829), section 6.1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.augmentations.geometry import shift as shift_by
from capsule_lightning.data.base import ImageBatch, ImageDataModule
from capsule_lightning.data.loader import ExactLoader, Store, StoredBatch
from capsule_lightning.data.mnist import MNISTDataModule
from capsule_lightning.data.module import Split
from capsule_lightning.data.prepared import Images
from capsule_lightning.errors import InputError, require

_EVALUATION, _BASE_SHIFTS = -1, -2  # where an epoch's number is asked for; those of training begin at 0


class MultiMNISTDataModule(ImageDataModule):
    """Pairs of MNIST digits, each on a canvas of its own and shifted at random, added and clipped at 1.

    An epoch goes once through the training digits, each with a new partner of another class and new shifts, so that the
    paper's 60 million training pairs are 1000 epochs. Partners come from the same part of the data: training digits
    have training partners, and validation and test digits likewise. Validation pairs depend on ``seed`` as the split
    does; test pairs are the same for everyone. Labels and pictures have the first digit first, then its partner.

    The defaults are the paper's. Its released code shifts by up to 6 pixels, which may cut a digit at the edge, and
    gives a digit the same shift in all its pairs: ``shift: 6, base_shift_fixed: true``. That code draws the partners of
    a digit without replacement; here they are drawn with replacement.

    Args:
        root: see `ImageDataModule`; the files are those of `MNISTDataModule`.
        shift: greatest shift of each digit in each direction, in pixels.
        pad: pixels added on each side of the digits' 28; no digit is cut if ``shift`` is at most this.
        base_shift_fixed: give the first digit of a pair the same shift in all its pairs.
        test_pairs: pairs of each test digit; 1000 in the paper. Those of a smaller number are the first of a larger.
        batch_size, val_size, seed, download, fake: see `ImageDataModule`.

    Raises:
        InputError: values out of range; digits of one class alone; what `ImageDataModule` refuses.
    """

    name = "multimnist"
    stored_shape = MNISTDataModule.stored_shape
    class_names = MNISTDataModule.class_names
    num_labels = 2

    def __init__(
        self,
        root: str | None = None,
        shift: int = 4,
        pad: int = 4,
        base_shift_fixed: bool = False,
        test_pairs: int = 1,
        batch_size: int = 128,
        val_size: float | int = 0.1,
        seed: int | None = None,
        download: bool = True,
        fake: bool = False,
    ) -> None:
        super().__init__(root, batch_size, val_size, seed, download=download, fake=fake)
        require(pad >= 0, f"pad={pad}: expected 0 or more")
        furthest = pad + min(self.stored_shape[1:]) - 1
        require(
            0 <= shift <= furthest,
            f"shift={shift}: expected 0 to {furthest}; a digit that moves further is out of sight",
        )
        require(test_pairs >= 1, f"test_pairs={test_pairs}: expected at least 1 pair of each test digit")
        self.shift, self.pad, self.base_shift_fixed, self.test_pairs = shift, pad, base_shift_fixed, test_pairs
        self.digits = MNISTDataModule(root, download=download)

    @property
    @override
    def in_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of the canvas."""
        channels, rows, columns = self.stored_shape
        return channels, rows + 2 * self.pad, columns + 2 * self.pad

    @override
    def prepare_data(self) -> None:
        """Fetch the digits; called by one process of each machine."""
        if not self.fake:
            self.digits.prepare_data()

    @override
    def load(self, split: Split) -> Images:
        """Return the single digits of a split."""
        return self.digits.load(split)

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Place the digits of each pair and add them, on the device."""
        if isinstance(batch, ImageBatch):
            return batch
        assert batch.draws is not None
        row, column = batch.draws[:, :4].reshape(-1, 2).unbind(dim=1)  # of the first digit, of its partner, ...
        canvases = F.pad(batch.inputs.flatten(0, 1).float() / 255, (self.pad,) * 4)
        pictures = shift_by(canvases, self.shift, row, column).reshape(-1, 2, *self.in_shape)
        return ImageBatch(pictures.sum(dim=1).clamp(max=1), pictures, batch.labels, batch.indices)

    @override
    def loader(self, split: str, subset: Tensor | None = None, training: bool = False) -> PairLoader:
        test, store, (rank, world_size) = split == "test", self.placed(split), self.process
        return PairLoader(
            store,
            torch.arange(len(store)) if subset is None else subset,
            self.batch_size,
            training=training,
            pairs=self.test_pairs if test else 1,
            base_shift_fixed=self.base_shift_fixed,
            seed=0 if test else self.seed,
            rank=rank,
            world_size=world_size,
        )


class PairLoader(ExactLoader):
    """Yields two digits for each of a subset: itself, and one of another class out of the same subset.

    Its batches hold ``inputs (B, 2, C, H, W)``, ``labels (B, 2)``, ``indices (B)`` of the first digits and
    ``draws (B, 5)``: rows and columns of the first digit's shift and of its partner's, and the number that chose the
    partner. Evaluation draws too, the same numbers in every epoch.

    Args:
        store, subset, batch_size, training, seed, rank, world_size: see `ExactLoader`.
        pairs: how often an evaluation goes through the subset, with other partners and shifts each time.
        base_shift_fixed: let the first digit's shift depend on the digit alone.

    Raises:
        InputError: the subset has digits of a single class.
    """

    def __init__(
        self,
        store: Store,
        subset: Tensor,
        batch_size: int,
        *,
        training: bool = False,
        pairs: int = 1,
        base_shift_fixed: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            store,
            subset.repeat(pairs),
            batch_size,
            training=training,
            num_draws=5,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        labels = store.labels
        classes = labels.cpu()[subset]
        by_class, counts = subset[classes.argsort(stable=True)], classes.bincount()
        if counts.max() == len(subset):
            raise InputError(
                f"all {len(subset)} digits to make pairs of are of class {int(classes[0])}: expected two classes or "
                "more; check the labels of the data, or change --data.val_size"
            )
        self.by_class, self.counts = by_class.to(labels.device), counts.to(labels.device)
        self.base_shifts = torch.rand(len(store), 2, generator=self.random(_BASE_SHIFTS)) if base_shift_fixed else None

    @override
    def plan(self) -> tuple[Tensor, Tensor]:
        order, draws = super().plan()
        if draws is None:
            draws = torch.rand(len(order), self.num_draws, generator=self.random(_EVALUATION))
        if self.base_shifts is not None:
            draws[:, :2] = self.base_shifts[order]
        return order, draws

    @override
    def batch(self, indices: Tensor, draws: Tensor | None) -> StoredBatch:
        assert draws is not None
        labels = self.store.labels
        both = torch.stack([indices, draw_partners(labels[indices], draws[:, 4], self.by_class, self.counts)], dim=1)
        digits = self.store.take(both.flatten())
        return StoredBatch(digits.view(*both.shape, *digits.shape[1:]), labels[both], indices, draws)


def draw_partners(labels: Tensor, draws: Tensor, by_class: Tensor, counts: Tensor) -> Tensor:
    """Choose for each digit one of another class, all of them with the same probability.

    Args:
        labels: ``(B)`` int64, the classes of the digits.
        draws: ``(B)`` in [0, 1).
        by_class: ``(M)`` int64, the digits to choose from, in the order of their classes.
        counts: ``(J)`` int64, how many of them belong to each class; at least two classes have some.

    Returns:
        ``(B)`` int64, out of ``by_class``.

    Example:
        >>> digits, counts = torch.tensor([5, 6, 7, 8]), torch.tensor([1, 2, 1])
        >>> draw_partners(torch.tensor([1, 1, 0]), torch.tensor([0.0, 0.9, 0.9]), digits, counts)
        tensor([5, 8, 8])
    """
    own = counts[labels]
    place = (draws.double() * (len(by_class) - own)).long()
    return by_class[place + own * (place >= counts.cumsum(0)[labels] - own)]  # past those of its own class
