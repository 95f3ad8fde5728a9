"""What data sets of pictures with a mask of each share: what values mean, how both are augmented, what is told."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.annotated import AnnotatedDataModule, part
from capsule_lightning.data.image_files import require_size
from capsule_lightning.data.loader import StoredBatch
from capsule_lightning.data.mask_values import MaskCode, Meaning, code_of
from capsule_lightning.data.pictures import Reading
from capsule_lightning.data.statistics import unit
from capsule_lightning.data.targets import IGNORE, MaskBatch
from capsule_lightning.errors import require


class PairedMasksDataModule(AnnotatedDataModule):
    """Pictures in memory, and a mask of each; a subclass opens stores of both.

    Args:
        shape: ``(C, H, W)`` of the network's input.
        augmentation: makes the augmentation of training images; None for none.
        meaning: what is stated about the values of masks.
        batch_size, val_size, seed, images, reading: see `AnnotatedDataModule`.

    Attributes:
        told: sentences about what was read, for `describe`.

    Raises:
        InputError: an option is out of range, or masks cannot follow the augmentation.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        augmentation: Callable[[], Augmentation] | None,
        meaning: Meaning,
        batch_size: int,
        val_size: float | int,
        seed: int | None,
        images: str | None,
        reading: Reading,
    ) -> None:
        super().__init__(batch_size, val_size, seed, images, reading)
        require_size(shape[0], shape[1:], reading.max_pixels)
        require(min(shape[1:]) >= 8, f"image_size={shape[1]}: expected at least 8 pixels")
        self.shape = shape
        self.augmentation = NoAugmentation() if augmentation is None else augmentation()
        changed = self.augmentation.out_shape(shape)
        require(
            self.augmentation.moves_masks and not self.augmentation.mixes and changed == shape,
            f"augmentation={type(self.augmentation).__name__}: masks cannot follow it; expected one that moves pixels "
            "and keeps the size, such as Affine, Shift, PaddedCrop, Mirror, or a Chain of these",
        )
        self.meaning, self.told = meaning, []  # type: tuple[Meaning, list[str]]

    @property
    @abstractmethod
    def code(self) -> MaskCode:
        """What the values mean, of all masks of all splits."""

    def code_from(self, counts: Counter[int], source: str) -> MaskCode:
        """Say what the values of all masks mean, and tell it.

        Args:
            counts: pixels of each value.
            source: of the masks, for messages.

        Raises:
            InputError: see `code_of`.
        """
        code = code_of(sorted(counts), source, *self.meaning)
        self.told += [*([code.note] if code.note else []), *shares_told(counts, code)]
        return code

    @property
    @override
    def class_names(self) -> list[str]:  # type: ignore[override]
        """Names of the classes, without the background; all masks are read for it, unless names are stated."""
        return list(self.meaning.class_names or self.code.class_names)

    @property
    @override
    def num_draws(self) -> int:
        return self.augmentation.num_draws

    @override
    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        kept, taken = part(len(labels), self.val_size, self.seed)
        return torch.tensor(kept), torch.tensor(taken, dtype=torch.int64)

    @override
    def class_counts(self) -> Tensor:
        """Return how many pixels of each class are trained on, ``(J)`` int64, without the background."""
        return self.pixel_counts()[1:]

    def pixel_counts(self) -> Tensor:
        """Return how many pixels of the background and of each class are trained on, ``(1 + J)`` int64."""
        labels = self.store("train").labels.cpu()[self._train]
        return torch.bincount(labels[labels >= 0].long(), minlength=1 + self.num_classes)

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | MaskBatch, dataloader_idx: int) -> MaskBatch:
        """Augment images and masks alike, on the device."""
        if isinstance(batch, MaskBatch):
            return batch
        pictures, masks = unit(batch.inputs), batch.labels.long()
        if masks.ndim == 1:  # pictures of one's own
            masks = torch.full_like(pictures[:, 0], IGNORE, dtype=torch.int64)
        if batch.draws is not None:
            masks = self.augmentation.train_masks(masks, batch.draws)
            pictures = self.augmentation.train(pictures, batch.draws)
        return MaskBatch(pictures, pictures.clamp(0, 1), masks, batch.indices)


def shares_told(counts: Counter[int], code: MaskCode) -> Iterable[str]:
    """Say which values are ignored, and what share of the pixels each class has.

    Args:
        counts: pixels of each value.
        code: what the values mean.
    """
    total, ignored = counts.total(), [value for value, label in code.labels.items() if label == IGNORE]
    if ignored:
        share = sum(counts[value] for value in ignored) / total
        yield f"ignored: value {', '.join(map(str, ignored))}, {100 * share:.1f} % of the pixels"
    else:
        yield "ignored: nothing"
    shares = {
        name: sum(counts[value] for value, label in code.labels.items() if label == number) / total
        for number, name in enumerate(["background", *code.class_names])
    }
    yield "pixels: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
