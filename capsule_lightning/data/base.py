"""The contract of every image data set, and all that they share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import lightning as L
import torch
from torch import Tensor

from capsule_lightning.augmentations.base import Augmentation, standardize
from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.image_files import image_paths, read_images
from capsule_lightning.data.loader import InMemoryLoader, StoredBatch
from capsule_lightning.data.prepared import Images
from capsule_lightning.errors import InputError

Normalization = Literal["none", "per_image", "channel"]
Split = Literal["train", "test"]

ROOT_VARIABLE = "CAPSULE_LIGHTNING_DATA"


class ImageBatch(NamedTuple):
    """What a task receives.

    Attributes:
        images: ``(B, C, H, W)`` float32, augmented and normalized: the input of the network.
        pictures: ``(B, C, H, W)`` float32 in [0, 1], augmented and not normalized: what a decoder should reconstruct.
            ``(B, L, C, H, W)`` where an image has L labels: a picture of each object alone.
        labels: ``(B)`` int64 in [0, num_classes); -1 where unknown. ``(B, L)`` where an image has L labels.
        indices: ``(B)`` int64, positions in the stored set.
    """

    images: Tensor
    pictures: Tensor
    labels: Tensor
    indices: Tensor


class ImageDataModule(L.LightningDataModule, ABC):
    """Images in memory as ``uint8``, on the GPU where they fit, augmented a batch at a time on the device.

    A data set is a subclass that states ``stored_shape`` and ``class_names`` and implements ``load``.

    Args:
        root: folder of the data; else the environment variable ``CAPSULE_LIGHTNING_DATA``, else ``data``.
        batch_size: images a step, of all processes together.
        val_size: images held out of the training set for validation, a number or a fraction; 0 to train on all.
            The split is stratified and depends on ``seed`` alone.
        seed: of the split, the order and the augmentation; null for that of ``seed_everything``, or else 0.
        augmentation: of the training images; null for the data set's usual one.
        normalization: of the network's input: ``per_image`` to mean 0 and deviation 1, ``channel`` by the statistics of
            the training images, null for the data set's usual one. The reconstruction target is never normalized.
        download: fetch the data set where no other source is found.
        images: a folder of image files, or one file, for ``predict``, in place of the test images.
        fake: random images of the right shape, for trying a configuration without any data.

    Attributes:
        in_shape: ``(C, H, W)`` of the network's input.
        num_classes: number of classes.
        class_names: their names, in the order of their numbers.
        steps_per_epoch: training batches an epoch, known after ``setup("fit")``.

    Raises:
        InputError: values out of range; data missing or not as expected (in ``prepare_data`` and ``setup``).
    """

    name: str
    stored_shape: tuple[int, int, int]
    class_names: Sequence[str]
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
        super().__init__()
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: expected at least 1 image a step")
        if not val_size >= 0 or (isinstance(val_size, float) and val_size >= 1 and not val_size.is_integer()):
            raise InputError(f"val_size={val_size}: expected 0, a fraction below 1 or a number of images")
        if seed is not None and not 0 <= seed < 2**32:
            raise InputError(f"seed={seed}: expected 0 to {2**32 - 1}, or null for that of --seed_everything")
        self.root = Path(root or os.environ.get(ROOT_VARIABLE) or "data").expanduser()
        self.batch_size, self.val_size = batch_size, val_size
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed  # set by seed_everything
        self.augmentation = type(self).usual_augmentation() if augmentation is None else augmentation()
        self.normalization = self.usual_normalization if normalization is None else normalization
        self.download, self.predict_path, self.fake = download, images, fake
        self.predict_files: list[Path] = []
        self._stored: dict[str, Images] = {}
        self._train = self._val = torch.empty(0, dtype=torch.int64)

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of the network's input."""
        return self.augmentation.out_shape(self.stored_shape)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def steps_per_epoch(self) -> int:
        """Training batches an epoch, of all processes together."""
        return len(self._train) // self.batch_size

    @abstractmethod
    def load(self, split: Split) -> Images:
        """All images of a split, from disk; called by every process, after ``prepare_data`` on one."""

    def setup(self, stage: str | None = None) -> None:
        """Load what the stage needs, and check it."""
        if stage == "predict" and self.predict_path is not None:
            self._stored["predict"] = self._read_predict_images(Path(self.predict_path).expanduser())
        elif stage in ("test", "predict", None):
            self._images("test")
        if stage in ("fit", "validate", None) and not len(self._train):
            self._train, self._val = self.hold_out(self._images("train").labels)
            if self.batch_size > len(self._train):
                raise InputError(
                    f"batch_size={self.batch_size} but only {len(self._train)} training images: "
                    f"set --data.batch_size to at most {len(self._train)}"
                )
        if self.normalization == "channel" and self.statistics is None:
            self.statistics = channel_statistics(self._images("train").images)

    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the training images to train on and of those to validate on, as ``val_size`` says."""
        return split_off(labels, self.val_size, self.seed)

    def train_dataloader(self) -> InMemoryLoader:
        """Shuffled and augmented."""
        self.require_whole_shares(self._process[1])
        return self._loader("train", self._train, training=True)

    def require_whole_shares(self, processes: int) -> None:
        """Refuse a batch that the processes cannot divide among them.

        Raises:
            InputError: as said.
        """
        if self.batch_size % processes:
            raise InputError(
                f"batch_size={self.batch_size} is the batch of all {processes} processes together: "
                f"choose a multiple of {processes}"
            )

    def val_dataloader(self) -> InMemoryLoader | list[InMemoryLoader]:
        """The held-out images of the training set; nothing where ``val_size`` is 0."""
        return self._loader("train", self._val) if len(self._val) else []

    def test_dataloader(self) -> InMemoryLoader:
        """The test images."""
        return self._loader("test", torch.arange(len(self._stored["test"].labels)))

    def predict_dataloader(self) -> InMemoryLoader:
        """The image files of ``images``, or the test images."""
        split = "predict" if "predict" in self._stored else "test"
        return self._loader(split, torch.arange(len(self._stored[split].labels)))

    def on_after_batch_transfer(self, batch: StoredBatch | ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Augment and normalize, on the device."""
        if isinstance(batch, ImageBatch):
            return batch
        pictures = batch.images.float() / 255
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

    def name_of(self, index: int) -> str:
        """The file of a predicted image, or its number in the test set."""
        return str(self.predict_files[index]) if self.predict_files else str(index)

    @property
    def _process(self) -> tuple[int, int]:
        """Rank of this process, and number of all."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, split: str, subset: Tensor, training: bool = False) -> InMemoryLoader:
        rank, world_size = self._process
        return InMemoryLoader(
            *self._placed(split),
            subset,
            self.batch_size,
            training=training,
            num_draws=self.augmentation.num_draws,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )

    def _placed(self, split: str) -> Images:
        """The images of a split, on the trainer's GPU from now on where they take little of its memory."""
        images, labels = self._stored[split]
        device = images.device if self.trainer is None else self.trainer.strategy.root_device
        if device != images.device and (device.type == "cpu" or fits(images, device)):
            self._stored[split] = Images(images.to(device), labels.to(device))
        return self._stored[split]

    def _images(self, split: Split) -> Images:
        if split in self._stored:
            return self._stored[split]
        stored = fake_images(self.stored_shape, self.num_classes, split) if self.fake else self.load(split)
        images, labels = stored
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
        self._stored[split] = stored
        return stored

    def _read_predict_images(self, path: Path) -> Images:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; --data.images takes an image file or a folder of them")
        self.predict_files = [path] if path.is_file() else image_paths(path)
        if not self.predict_files:
            raise InputError(f"{path}: no images in this folder; expected png, jpeg, webp, ...")
        images = read_images(self.predict_files, self.stored_shape, resize=True)
        return Images(images, torch.full((len(images),), -1))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: order and augmentation are functions of the seed; the loader keeps its own position."""
        return {}


def split_off(labels: Tensor, size: float | int, seed: int, option: str = "val_size") -> tuple[Tensor, Tensor]:
    """Split stratified by label.

    Args:
        labels: ``(N)`` int64.
        size: of the part split off, a number of images or a fraction of N.
        seed: chooses the images.
        option: what the user sets ``size`` by, for the error.

    Returns:
        Indices of what remains and of what is split off, both in ascending order.

    Raises:
        InputError: a size that leaves a class without images on either side.
    """
    indices = torch.arange(len(labels))
    count = round(size * len(labels)) if 0 < size < 1 else int(size)
    if count == 0:
        return indices, indices[:0]
    counts = labels.bincount()
    classes, rarest = int((counts > 0).sum()), int(counts[counts > 0].min())
    if rarest < 2 or not classes <= count <= len(labels) - classes:
        raise InputError(
            f"{option}={size}: cannot split {count} of {len(labels)} images off, each of {classes} classes on both "
            f"sides, the smallest of {rarest}: expected {classes} to {len(labels) - classes}; change --data.{option}"
        )
    from sklearn.model_selection import train_test_split

    kept, taken = train_test_split(indices.numpy(), test_size=count, random_state=seed, stratify=labels.numpy())
    return torch.from_numpy(kept).sort().values, torch.from_numpy(taken).sort().values


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether images may stay on a device: on a GPU, where they take at most a tenth of its free memory."""
    return device.type == "cuda" and 10 * images.nbytes <= torch.cuda.mem_get_info(device)[0]


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of uint8 images ``(N, C, H, W)``, on the [0, 1] scale."""
    counts = [torch.bincount(images[:, c].flatten(), minlength=256).double() for c in range(images.shape[1])]
    values = torch.arange(256, dtype=torch.float64) / 255
    means = [float((n * values).sum() / n.sum()) for n in counts]
    variances = [float((n * (values - m) ** 2).sum() / n.sum()) for n, m in zip(counts, means, strict=True)]
    return means, [max(v, 1e-12) ** 0.5 for v in variances]


def fake_images(shape: tuple[int, int, int], num_classes: int, split: Split) -> Images:
    """Noise over one faint pattern for each class: enough for a network to learn something, and made in no time."""
    count = num_classes * (40 if split == "train" else 10)
    random = torch.Generator().manual_seed(0 if split == "train" else 1)
    patterns = torch.randint(0, 128, (num_classes, *shape), generator=torch.Generator().manual_seed(2))
    labels = torch.arange(num_classes).repeat(count // num_classes)
    noise = torch.randint(0, 128, (count, *shape), generator=random)
    return Images((patterns[labels] + noise).to(torch.uint8), labels)
