"""The contract of every image data set, and all that they share."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation, standardize
from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.image_files import image_paths, read_images
from capsule_lightning.data.loader import MemoryStore, Store, StoredBatch
from capsule_lightning.data.module import DataModule, Split
from capsule_lightning.data.prepared import Images
from capsule_lightning.errors import InputError, require

Normalization = Literal["none", "per_image", "channel"]

ROOT_VARIABLE = "CAPSULE_LIGHTNING_DATA"
_AT_ONCE = 10_000  # images that are counted at a time


class ImageBatch(NamedTuple):
    """What a task receives.

    Attributes:
        images: ``(B, C, H, W)`` float32, augmented and normalized: the input of the network.
        pictures: ``(B, C, H, W)`` float32 in [0, 1], augmented and not normalized: what a decoder should reconstruct.
            ``(B, L, C, H, W)`` if an image has L labels: a picture of each object alone.
        labels: ``(B)`` int64 in [0, num_classes); -1 if unknown. ``(B, L)`` if an image has L labels.
        indices: ``(B)`` int64, positions in the stored set.
    """

    images: Tensor
    pictures: Tensor
    labels: Tensor
    indices: Tensor


class ImageDataModule(DataModule):
    """Images in memory as ``uint8``, on the GPU if they fit, augmented a batch at a time on the device.

    A data set is a subclass that states ``stored_shape`` and ``class_names`` and implements ``load``.

    Args:
        root: folder of the data; else the environment variable ``CAPSULE_LIGHTNING_DATA``, else ``data``.
        batch_size: images a step, of all processes together.
        val_size: images held out of the training set for validation, a number or a fraction; 0 to train on all.
            The split is stratified and depends on ``seed`` alone.
        seed: seed of the split, the order and the augmentation; null for that of ``seed_everything``, or else 0.
        augmentation: augmentation of the training images; null for the data set's usual one.
        normalization: normalization of the network's input: ``per_image`` to mean 0 and deviation 1, ``channel`` by the
            statistics of the training images, null for the data set's usual one. The reconstruction target is never
            normalized.
        download: fetch the data set if no other source is found.
        images: a folder of image files, or one file, for ``predict``, in place of the test images.
        fake: random images of the right shape, for trying a configuration without any data.

    Attributes:
        in_shape: ``(C, H, W)`` of the network's input.
        num_classes: number of classes.
        class_names: names of the classes, in the order of their numbers.
        steps_per_epoch: training batches an epoch, known after ``setup("fit")``.

    Raises:
        InputError: values out of range; data missing or not as expected (in ``prepare_data`` and ``setup``).
    """

    name: str
    stored_shape: tuple[int, int, int]
    statistics: tuple[Sequence[float], Sequence[float]] | None = None
    """Mean and standard deviation of each channel of the training images in [0, 1]; None to measure them."""
    usual_augmentation: ClassVar[Callable[[], Augmentation]] = NoAugmentation
    usual_normalization: ClassVar[Normalization] = "none"
    num_labels: ClassVar[int] = 1
    """Labels of an image."""

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        val_size: float | int = 0.1,
        seed: int | None = None,
        augmentation: Callable[[], Augmentation] | None = None,
        normalization: Normalization | None = None,
        download: bool = True,
        images: str | None = None,
        fake: bool = False,
    ) -> None:
        super().__init__(batch_size, val_size, seed)
        self.root = Path(root or os.environ.get(ROOT_VARIABLE) or "data").expanduser()
        self.augmentation = type(self).usual_augmentation() if augmentation is None else augmentation()
        self.asked_normalization = normalization
        self.normalization = self.usual_normalization if normalization is None else normalization
        self.download, self.predict_path, self.fake = download, images, fake
        self.predict_files: list[Path] = []

    @property
    @override
    def in_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of the network's input."""
        return self.augmentation.out_shape(self.stored_shape)

    @property
    @override
    def num_draws(self) -> int:
        return self.augmentation.num_draws

    @abstractmethod
    def load(self, split: Split) -> Images:
        """Return all images of a split, from disk; called by every process, after ``prepare_data`` on one."""

    @override
    def setup(self, stage: str | None = None) -> None:
        """Open what the stage needs, and measure the training images if the normalization asks for it."""
        if stage == "predict" and self.predict_path is not None:
            self.stores["predict"] = self._predict_images(Path(self.predict_path).expanduser())
        else:
            super().setup(stage)
        if self.normalization == "channel" and self.statistics is None:
            self.statistics = channel_statistics(self.store("train"))

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Augment and normalize, on the device."""
        if isinstance(batch, ImageBatch):
            return batch
        pictures = batch.inputs.float() / 255
        if batch.draws is None:
            pictures = self.augmentation.evaluate(pictures)
        else:
            pictures = self.augmentation.train(pictures, batch.draws)
        images = pictures
        if self.normalization == "per_image":
            images = standardize(pictures)
        elif self.normalization == "channel":
            assert self.statistics is not None
            mean, deviation = (torch.tensor(s, device=pictures.device).view(-1, 1, 1) for s in self.statistics)
            images = (pictures - mean) / deviation
        return ImageBatch(images, pictures.clamp(0, 1), batch.labels, batch.indices)

    @override
    def name_of(self, index: int) -> str:
        """Return the file of a predicted image, or its number in the test set."""
        return str(self.predict_files[index]) if self.predict_files else super().name_of(index)

    @override
    def open(self, split: Split) -> Store:
        """Return the images of a split, checked.

        Raises:
            InputError: images and labels do not fit each other, or are not what the data set states.
        """
        images, labels = fake_images(self.stored_shape, self.num_classes, split) if self.fake else self.load(split)
        if not len(labels) == len(images) > 0:
            raise InputError(
                f"the {split} set of {self.name} has {len(images)} images and {len(labels)} labels: expected as many, "
                "and at least one; fetch or prepare the data again"
            )
        if images.dtype != torch.uint8 or labels.is_floating_point():
            raise InputError(
                f"the {split} images of {self.name} are {images.dtype} and their labels {labels.dtype}: expected uint8 "
                "and whole numbers; prepare the data again"
            )
        if labels.min() < 0 or labels.max() >= self.num_classes:
            wrong = int(labels.max() if labels.max() >= self.num_classes else labels.min())
            raise InputError(
                f"num_classes={self.num_classes} but labels reach {wrong} in the {split} set of {self.name}: "
                f"expected labels from 0 to {self.num_classes - 1}; check the labels or the class names"
            )
        if tuple(images.shape[1:]) != self.stored_shape:
            raise InputError(
                f"the {split} images of {self.name} are {tuple(images.shape[1:])}; expected {self.stored_shape}: these "
                "are other data, see --data.root"
            )
        return MemoryStore(images, labels)

    def _predict_images(self, path: Path) -> Store:
        require(path.exists(), f"{path}: no such file or folder; --data.images takes an image file or a folder of them")
        self.predict_files = [path] if path.is_file() else image_paths(path)
        require(self.predict_files, f"{path}: no images in this folder; expected png, jpeg, webp, ...")
        images = read_images(self.predict_files, self.stored_shape, resize=True)
        return MemoryStore(images, torch.full((len(images),), -1))


def channel_statistics(store: Store) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of uint8 images ``(N, C, H, W)``, on the [0, 1] scale."""
    parts = torch.split(torch.arange(len(store), device=store.labels.device), _AT_ONCE)
    counts = torch.zeros(store.take(parts[0][:1]).shape[1], 256, dtype=torch.float64)
    for part in parts:
        for count, channel in zip(counts, store.take(part).unbind(dim=1), strict=True):
            count += torch.bincount(channel.flatten(), minlength=256).cpu()
    values = torch.arange(256, dtype=torch.float64) / 255
    means = [float((n * values).sum() / n.sum()) for n in counts]
    variances = [float((n * (values - m) ** 2).sum() / n.sum()) for n, m in zip(counts, means, strict=True)]
    return means, [max(v, 1e-12) ** 0.5 for v in variances]


def fake_images(shape: tuple[int, int, int], num_classes: int, split: Split) -> Images:
    """Return noise over one faint pattern for each class: enough to learn something from, and made in no time."""
    count = num_classes * (40 if split == "train" else 10)
    random = torch.Generator().manual_seed(0 if split == "train" else 1)
    patterns = torch.randint(0, 128, (num_classes, *shape), generator=torch.Generator().manual_seed(2))
    labels = torch.arange(num_classes).repeat(count // num_classes)
    noise = torch.randint(0, 128, (count, *shape), generator=random)
    return Images((patterns[labels] + noise).to(torch.uint8), labels)
