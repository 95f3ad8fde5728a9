"""The contract of every image data set, and all that they share."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from typing_extensions import override

from capsule_lightning.augmentations.base import Augmentation, standardize
from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.deep_pictures import is_range
from capsule_lightning.data.facts import Facts, Part, describe_counts, describe_facts, describe_oddities, size_in_words
from capsule_lightning.data.fitting import Fit
from capsule_lightning.data.loader import MemoryStore, Store, StoredBatch
from capsule_lightning.data.module import DataModule, Split
from capsule_lightning.data.pictures import MOST_PIXELS, Reading
from capsule_lightning.data.prepared import Images
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.data.shares import Share, shares_of_pairs
from capsule_lightning.data.statistics import Brightness, brightness, channel_statistics, unit
from capsule_lightning.data.to_predict import ToPredict, read_to_predict
from capsule_lightning.errors import InputError, printable, require

Normalization = Literal["none", "per_image", "channel"]

ROOT_VARIABLE = "CAPSULE_LIGHTNING_DATA"
BRIGHTNESS = "brightness"
"""Under which a data module's state has the brightness of its training images."""
VALUES = "values"
"""Under which it has the values that become 0 and 1, if its images are not bytes."""


class ImageBatch(NamedTuple):
    """What a task receives.

    Attributes:
        images: ``(B, C, H, W)`` float32, augmented and normalized: the input of the network.
        pictures: ``(B, C, H, W)`` float32 in [0, 1], augmented and not normalized: what a decoder should reconstruct.
            ``(B, L, C, H, W)`` if an image has L labels: a picture of each object alone.
        labels: ``(B)`` int64 in [0, num_classes); -1 if unknown. ``(B, L)`` if an image has L labels; if it may have
            any number, they are in ascending order, and -1 fills the places that are left.
        indices: ``(B)`` int64, positions in the stored set.
        shares: what the images count as in the loss; empty if each counts once, by its labels. Images that are mixed of
            two have two shares, and the greater one gives ``labels``.
    """

    images: Tensor
    pictures: Tensor
    labels: Tensor
    indices: Tensor
    shares: tuple[Share, ...] = ()


class ImageDataModule(DataModule):
    """Images in memory, on the GPU if they fit, augmented a batch at a time on the device.

    They are kept as ``uint8``, or, if they have more than 8 bits, as ``float32`` from 0 to 1.

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
        images: a folder of image files, one file, or a table that lists them in a column ``path``, for ``predict``, in
            place of the test images; or images without labels in an ``.npy`` or ``.npz`` file.
        fake: random images of the right shape, for trying a configuration without any data.
        background: color that transparent image files are laid on: a name such as white, or ``#rrggbb``.
        invert: exchange dark and light of image files, as for ink on paper if the network knows light digits on black.
        max_pixels: most pixels of an image file; a larger one is refused before it is decoded.
        skip_damaged: leave out image files that cannot be read, and say which, instead of refusing them all.
        balanced: train on each class as often: each epoch draws as many examples as there are, with replacement, the
            class first. It depends on ``seed`` and epoch alone, as the usual order does.
        fit: how image files of another ratio of rows to columns come to the size asked for: ``squeeze`` or stretch
            them; ``crop``, which scales them to cover it and cuts off what stands out, on both sides alike; ``pad``,
            which scales them to lie within it, on the background.

    Attributes:
        in_shape: ``(C, H, W)`` of the network's input.
        num_classes: number of classes.
        class_names: names of the classes, in the order of their numbers.
        steps_per_epoch: training batches an epoch, known after ``setup("fit")``.
        met: what was met in image files, by split, see `Facts`.

    Raises:
        InputError: values out of range; data missing or not as expected (in ``prepare_data`` and ``setup``).
    """

    name: str
    stored_shape: tuple[int, int, int]
    statistics: tuple[Sequence[float], Sequence[float]] | None = None
    """Mean and standard deviation of each channel of the training images in [0, 1]; None to measure them."""
    usual_augmentation: ClassVar[Callable[[], Augmentation]] = NoAugmentation
    usual_normalization: ClassVar[Normalization] = "none"
    num_labels: int = 1
    """Labels of an image; 0 if it may have any number, none included."""

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
        background: str = "white",
        invert: bool = False,
        max_pixels: int = MOST_PIXELS,
        skip_damaged: bool = False,
        balanced: bool = False,
        fit: Fit = "squeeze",
    ) -> None:
        super().__init__(batch_size, val_size, seed, balanced)
        require(images != "", "images='': expected an image file, or a folder of them")
        self.root = Path(os.path.expanduser(root or os.environ.get(ROOT_VARIABLE) or "data"))
        kind = kind_of(self.root)
        require(
            kind == "folder" or kind.startswith("no such"),
            f"{self.root}: cannot be the folder of the data ({kind}); set --data.root to a folder",
        )
        self.augmentation = type(self).usual_augmentation() if augmentation is None else augmentation()
        self.asked_normalization = normalization
        self.normalization = self.usual_normalization if normalization is None else normalization
        self.download, self.predict_path, self.fake = download, images, fake
        self.reading = Reading(background, invert, max_pixels, skip_damaged, fit)
        self.predict_files: list[Path] = []
        self.met: dict[str, Facts] = {}
        self._brightness: Brightness | None = None

    @property
    @override
    def in_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of the network's input."""
        return self.augmentation.out_shape(self.stored_shape)

    @property
    @override
    def num_draws(self) -> int:
        return self.augmentation.num_draws

    @property
    @override
    def mixes(self) -> bool:
        return self.augmentation.mixes

    @abstractmethod
    def load(self, split: Split) -> Images:
        """Return all images of a split, from disk; called by every process, after ``prepare_data`` on one."""

    @override
    def setup(self, stage: str | None = None) -> None:
        """Open what the stage needs, and measure the training images if the normalization asks for it."""
        if stage == "predict" and self.predict_path is not None:
            self.stores["predict"] = self._predict_images(Path(os.path.expanduser(self.predict_path)))
        else:
            super().setup(stage)
        if self.normalization == "channel" and self.statistics is None:
            self.statistics = channel_statistics(self.store("train"))

    @override
    def on_after_batch_transfer(self, batch: StoredBatch | ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Augment and normalize, on the device."""
        if isinstance(batch, ImageBatch):
            return batch
        pictures, labels, indices = unit(batch.inputs), batch.labels, batch.indices
        shares: tuple[Share, ...] = ()
        if batch.draws is None:
            pictures = self.augmentation.evaluate(pictures)
        elif batch.draws.ndim == 3:
            pictures, labels, shares = self._mixed(pictures, batch)
            indices = indices[:, 0]
        else:
            pictures = self.augmentation.train(pictures, batch.draws)
            weights = self.weights_of(indices)
            shares = () if weights is None else (Share(labels, weights),)
        images = pictures
        if self.normalization == "per_image":
            images = standardize(pictures)
        elif self.normalization == "channel":
            assert self.statistics is not None
            mean, deviation = (torch.tensor(s, device=pictures.device).view(-1, 1, 1) for s in self.statistics)
            images = (pictures - mean) / deviation
        return ImageBatch(images, pictures.clamp(0, 1), labels, indices, shares)

    def _mixed(self, pictures: Tensor, batch: StoredBatch) -> tuple[Tensor, Tensor, tuple[Share, ...]]:
        """Return pictures ``(B, C, H, W)`` of pairs ``(B, 2, C, H, W)``, labels of the greater share, and both."""
        assert batch.draws is not None
        changed = self.augmentation.train(pictures.flatten(0, 1), batch.draws.flatten(0, 1))
        first, second = changed.view(-1, 2, *changed.shape[1:]).unbind(dim=1)
        mixed, own = self.augmentation.mix(first, second, batch.draws[:, 0])
        return mixed, *shares_of_pairs(batch.labels, own, self.weights_of(batch.indices))

    @override
    def name_of(self, index: int) -> str:
        """Return the file of a predicted image, or its number in the test set."""
        return printable(str(self.predict_files[index])) if self.predict_files else super().name_of(index)

    @override
    def open(self, split: Split) -> Store:
        """Return the images of a split, checked.

        Raises:
            InputError: images and labels do not fit each other, or are not what the data set states.
        """
        images, labels = fake_images(self.stored_shape, self.num_classes, split) if self.fake else self.load(split)
        self.require_usable(split, images, labels, self.stored_shape)
        return MemoryStore(images, labels)

    def require_usable(self, split: Split, images: Tensor, labels: Tensor, shape: tuple[int, int, int]) -> None:
        """Refuse images and labels that are not what the data set states, before they are used or kept.

        Args:
            split: for the message.
            images: ``(N, *shape)`` uint8, or float32 from 0 to 1.
            labels: ``(N)``, whole numbers from 0 to the number of classes; ``(N, L)``, -1 where there are fewer, if an
                image may have any number of labels.
            shape: ``(C, H, W)``.

        Raises:
            InputError: they are something else.
        """
        if not len(labels) == len(images) > 0:
            raise InputError(
                f"the {split} set of {self.name} has {len(images)} images and {len(labels)} labels: expected as many, "
                "and at least one; fetch or prepare the data again"
            )
        several = self.num_labels == 0
        numbers = labels.ndim == 1 + several and labels.dtype != torch.bool and not labels.is_floating_point()
        if images.dtype not in (torch.uint8, torch.float32) or not numbers:
            raise InputError(
                f"the {split} images of {self.name} are {images.dtype} and their labels {tuple(labels.shape)} "
                f"{labels.dtype}: expected uint8 and a whole number for each; prepare the data again"
            )
        if labels.min() < -several or labels.max() >= self.num_classes:
            wrong = int(labels.max() if labels.max() >= self.num_classes else labels.min())
            raise InputError(
                f"num_classes={self.num_classes} but labels reach {wrong} in the {split} set of {self.name}: "
                f"expected labels from 0 to {self.num_classes - 1}; check the labels or the class names"
            )
        if tuple(images.shape[1:]) != shape:
            raise InputError(
                f"the {split} images of {self.name} are {tuple(images.shape[1:])}; expected {shape}: these "
                "are other data, see --data.root"
            )

    @override
    def describe(self) -> str:
        """Return what has been read so far: images, classes, sizes, splits, and whatever is odd about the files."""
        channels, rows, columns = self.stored_shape
        colors = {1: "gray", 3: "color"}.get(channels, f"{channels} channels")
        source = "random images in place of " if self.fake else ""
        size = f"{size_in_words(self.met.values(), (rows, columns))}{rows}x{columns} in {colors}"
        counts = [len(part.places) for part in self._parts().values()]
        of = f"{sum(counts):,} images of " if counts else ""
        lines = [f"{source}{self.title}: {of}{self.num_classes} classes, {size}", self.describe_splits()]
        lines += describe_facts(self.met, self.reading, channels)
        if not self.fake:
            lines += [*describe_counts(self._parts(), self.class_names), *describe_oddities(self._parts())]
        return printable(lines[0]) + "".join(f"\n  {line}" for line in lines[1:])

    def _parts(self) -> dict[str, Part]:
        """Return the examples of each split that has been opened."""
        parts = {}
        for split, store, places in (("train", "train", self._train), ("validation", "train", self._val)):
            if len(places):
                parts[split] = Part(self.stores[store], places, self.files_of(store))
        if "test" in self.stores:
            test = self.stores["test"]
            parts["test"] = Part(test, torch.arange(len(test)), self.files_of("test"))
        return parts

    @property
    def title(self) -> str:
        """What the data are called."""
        return self.name

    def files_of(self, split: str) -> Sequence[PurePath] | None:
        """Return the files of a split's examples, in their order; None if they are known by their places."""
        return None

    def brightness(self) -> Brightness:
        """Return how bright the training images are: as the run that was loaded says, or else measured once."""
        if self._brightness is None:
            self._brightness = brightness(self.store("train"))
        return self._brightness

    def keep_classes(self, names: Sequence[str] | None) -> None:
        """Number the classes as a run does, if these are its classes in another order; nothing unless overridden.

        Args:
            names: of the run's classes, in their order; None if it does not state them, as long ago.
        """

    def keep_values(self, values: Sequence[float] | None) -> None:
        """Read images of more than 8 bits on the scale of a run, whatever images there are now.

        Args:
            values: those that become 0 and 1; None if its images were bytes.
        """
        if values is not None:
            self.reading = replace(self.reading, values=(float(values[0]), float(values[1])))

    def reopen(self) -> None:
        """Read again what is open, and measure it again, after another range of values has been chosen."""
        self.stores |= {split: self.open(split) for split in get_args(Split) if split in self.stores}
        if "train" in self.stores and "statistics" in vars(self):
            self.statistics = channel_statistics(self.stores["train"])

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the split, and brightness and range of the training images."""
        state = super().state_dict()
        if not state:
            return state
        values = {} if self.reading.values is None else {VALUES: list(self.reading.values)}
        return {**state, BRIGHTNESS: self.brightness()._asdict(), **values}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        values = state_dict.get(VALUES) if isinstance(state_dict, dict) else None
        if state_dict:
            self.keep_values(values if is_range(values) else None)
        super().load_state_dict(state_dict)
        found = state_dict.get(BRIGHTNESS) if isinstance(state_dict, dict) else None
        if isinstance(found, dict) and all(isinstance(found.get(name), float) for name in Brightness._fields):
            self._brightness = Brightness(found["mean"], found["deviation"])

    def _predict_images(self, path: Path) -> Store:
        return self.taken(read_to_predict(path, self.stored_shape, self.reading))

    def taken(self, found: ToPredict) -> Store:
        """Keep the names of pictures to predict and what was met in them, and return their store."""
        self.predict_files = found.files
        if found.facts is not None:
            self.met["predict"] = found.facts
        return found.store


def fake_images(shape: tuple[int, int, int], num_classes: int, split: Split) -> Images:
    """Return noise over one faint pattern for each class: enough to learn something from, and made in no time."""
    count = num_classes * (40 if split == "train" else 10)
    random = torch.Generator().manual_seed(0 if split == "train" else 1)
    fixed = torch.Generator().manual_seed(2)
    patterns = torch.randint(0, 128, (num_classes, *shape), generator=fixed, dtype=torch.uint8)
    labels = torch.arange(num_classes).repeat(count // num_classes)
    noise = torch.randint(0, 128, (count, *shape), generator=random, dtype=torch.uint8)
    return Images(noise.add_(patterns[labels]), labels)
