"""What a network was trained on, as far as its use needs it; checkpoints and shared files hold it with the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, get_args

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from capsule_lightning.augmentations.base import standardize
from capsule_lightning.data.base import ImageDataModule, Normalization
from capsule_lightning.data.deep_pictures import is_range
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.statistics import Brightness, unlike
from capsule_lightning.data.text import TextDataModule
from capsule_lightning.data.translation import TranslationDataModule
from capsule_lightning.data.vocabulary_files import require_same_vocabulary, vocabulary_of
from capsule_lightning.errors import InputError, first_line, printable, require
from capsule_lightning.runs.plain_values import path_of, stated

OF_MACHINE = (
    *("root", "path", "test_path", "table", "folder", "images", "pictures", "masks", "test_pictures", "test_masks"),
    *("backgrounds", "download", "texts", "vocabulary", "word_vectors", "_class_path", "_instantiator"),
    *("source", "target", "val_source", "val_target", "test_source", "test_target"),
)
"""Arguments of a data module that concern the place where it ran, and what Lightning notes beside them."""


@dataclass(frozen=True)
class TrainedOn:
    """What a network was trained on.

    Attributes:
        name: name of the data set.
        class_names: names of the J classes, in the order of the class capsules; none of a network that translates.
        in_shape: ``(C, H, W)`` of the network's input; ``(V, L)`` of texts, ``(L)`` of sentences to translate.
        stored_shape: ``(C, H, W)`` of an image before it is brought to the input's shape; None if it is not known.
        num_labels: labels of an image.
        normalization: of the network's input.
        statistics: mean and deviation of each channel, for the normalization ``channel``; None if they are not known.
        brightness: mean and deviation, over training images, of an image's mean in [0, 1]; None if it is not known.
        value_range: the values that become 0 and 1, if the images are not bytes; None if they are.
        slot: class and arguments of the data module, without those of one machine; None if they are not known.
        vocabulary: of texts, see `Vocabulary.plain`; None of images.
    """

    name: str
    class_names: Sequence[str]
    in_shape: Sequence[int]
    stored_shape: Sequence[int] | None = None
    num_labels: int = 1
    normalization: Normalization = "none"
    statistics: Sequence[Sequence[float]] | None = None
    brightness: Sequence[float] | None = None
    slot: Mapping[str, Any] | None = None
    value_range: Sequence[float] | None = None
    vocabulary: Mapping[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return stated(asdict(self))

    def normalize(self, pictures: Tensor) -> Tensor:
        """Return the network's input of pictures ``(B, C, H, W)`` in [0, 1].

        Raises:
            InputError: the statistics that the normalization needs are not known.
        """
        if self.normalization == "none":
            return pictures
        if self.normalization == "per_image":
            return standardize(pictures)
        if self.statistics is None:
            raise InputError(
                "the mean and deviation of the training images are not known; export where they can be read"
            )
        mean, deviation = (torch.tensor(each, device=pictures.device).view(-1, 1, 1) for each in self.statistics)
        return (pictures - mean) / deviation

    def require_same(self, data: ImageDataModule | TextDataModule, source: str) -> None:
        """Refuse data that are not of the network's classes, or of other channels or another size.

        Data that number the same classes in another order take over that of the network, if they can.

        Args:
            data: what the network is to be measured on.
            source: of the network, for the message.

        Raises:
            InputError: the first difference.
        """
        if isinstance(data, ImageDataModule):
            data.keep_classes(self.class_names)
        self.require_same_names(names_of(data), source)
        if isinstance(data, TextDataModule) and self.vocabulary is not None:
            require_same_vocabulary(vocabulary_of(self.vocabulary, source), data.vocabulary, source)
            require(
                self.in_shape[-1] == data.max_length,
                f"{source}: takes texts of at most {self.in_shape[-1]} ids, and these data give {data.max_length}; set "
                f"--data.max_length {self.in_shape[-1]}",
            )
        if tuple(self.in_shape) != tuple(data.in_shape):
            raise InputError(
                f"{source}: takes images of (channels, rows, columns) {tuple(self.in_shape)}, and these data give "
                f"{tuple(data.in_shape)}; bring them to that, as with --data.channels and --data.image_size"
            )

    @property
    def of_sentences(self) -> bool:
        """Whether the network translates."""
        return self.vocabulary is not None and len(self.in_shape) == 1

    def require_same_sentences(self, data: TranslationDataModule, source: str) -> None:
        """Refuse sentences in another vocabulary than the network's.

        Raises:
            InputError: it is another one; the first difference is named.
        """
        require_same_vocabulary(vocabulary_of(self.vocabulary, source), data.vocabulary, source)

    def require_same_names(self, theirs: Sequence[str], source: str) -> None:
        """Refuse data whose classes are called otherwise than those of the network.

        Raises:
            InputError: both lists.
        """
        ours = list(self.class_names)
        if ours != list(theirs):
            order = " in another order" if sorted(ours) == sorted(theirs) else ""
            raise InputError(
                f"{source}: was trained on the {len(ours)} classes {listed(ours)}, and these data have "
                f"{len(theirs)}{order}: {listed(theirs)}; give the data of those classes"
            )

    def normalizes(self, data: ImageDataModule | TextDataModule) -> None:
        """Let data be scaled and normalized as the network's training images were.

        Another normalization is taken if it is asked for.
        """
        if isinstance(data, TextDataModule):
            return
        data.keep_values(self.value_range)
        asked = data.asked_normalization
        if asked not in (None, self.normalization):
            rank_zero_info(f"data.normalization={asked}, as asked; the network was trained with {self.normalization}")
            return
        data.normalization = self.normalization
        if self.normalization == "channel" and self.statistics is not None:
            mean, deviation = self.statistics
            data.statistics = mean, deviation


def trained_on(data: ImageDataModule | TextDataModule) -> TrainedOn:
    """Describe data that are set up for training."""
    arguments = {name: value for name, value in stated(data.hparams).items() if name not in OF_MACHINE}
    if isinstance(data, ImageDataModule) and arguments.get("augmentation", ...) is None:
        arguments |= stated({"augmentation": type(data).usual_augmentation})
    try:
        slot = {"class_path": path_of(type(data)), "init_args": {**arguments, "seed": data.seed}}
    except TypeError:  # a class that was made within a function
        slot = None
    if isinstance(data, TextDataModule):
        plain = data.vocabulary.plain()
        sizes = list(data.in_shape)
        return TrainedOn(data.name, names_of(data), sizes, num_labels=data.num_labels, slot=slot, vocabulary=plain)
    statistics = data.statistics if data.normalization == "channel" else None
    shape = getattr(data, "stored_shape", None)  # a class of one's own may do without
    store = data.store("train")
    kind = store.take(torch.zeros(1, dtype=torch.int64, device=store.labels.device)).dtype
    are_images = kind == torch.uint8 or data.reading.values is not None
    return TrainedOn(
        name=data.name or type(data).__name__,
        class_names=names_of(data),
        in_shape=list(data.in_shape),
        stored_shape=None if shape is None else list(shape),
        num_labels=data.num_labels,
        normalization=data.normalization,
        statistics=None if statistics is None else [list(each) for each in statistics],
        brightness=list(data.brightness()) if data.num_labels == 1 and are_images else None,
        slot=slot,
        value_range=None if data.reading.values is None else list(data.reading.values),
    )


def annotated_on(data: DataModule, class_names: Sequence[str]) -> TrainedOn:
    """Describe data with masks, boxes or joints, which are not normalized.

    Args:
        data: set up for training.
        class_names: names of all that the network tells apart.
    """
    shape = list(data.in_shape)
    name = getattr(data, "name", None) or type(data).__name__
    return TrainedOn(name, [printable(str(each)) for each in class_names], shape, shape, 0, slot=slot_of(data))


def sentences_on(data: TranslationDataModule) -> TrainedOn:
    """Describe pairs of sentences that are set up for training."""
    plain = data.vocabulary.plain()
    return TrainedOn(data.name, [], list(data.in_shape), num_labels=0, slot=slot_of(data), vocabulary=plain)


def slot_of(data: DataModule) -> dict[str, Any] | None:
    """Return class and arguments of a data module, without those of one machine; None if it cannot be named."""
    try:
        return {
            "class_path": path_of(type(data)),
            "init_args": of_no_machine({**stated(data.hparams), **stated(data.learned()), "seed": data.seed}),
        }
    except TypeError:  # a class that was made within a function
        return None


def of_no_machine(value: Any) -> Any:
    """Return arguments of a data module, and of those that it holds, without those that concern one machine."""
    if isinstance(value, Mapping):
        return {key: of_no_machine(each) for key, each in value.items() if key not in OF_MACHINE}
    return value


def names_of(data: DataModule) -> list[str]:
    """Return the names of the classes of data, as they can be printed in one line."""
    return [printable(str(name)) for name in data.class_names]


def unlike_training(brightness: Tensor, usual: Sequence[float]) -> tuple[int, int, bool]:
    """Count images that are far brighter, or far darker, than the training images.

    Args:
        brightness: ``(N)``, the mean of each image in [0, 1].
        usual: mean and deviation of the brightness of training images.

    Returns:
        How many are far brighter; how many far darker; and whether all of them would be usual if they were inverted.

    Example:
        >>> unlike_training(torch.tensor([0.9, 0.88, 0.12]), (0.13, 0.04))
        (2, 0, True)
    """
    mean, deviation = usual
    signs = unlike(brightness.view(-1, 1, 1, 1), Brightness(mean, deviation))
    strange = brightness[signs != 0].view(-1, 1, 1, 1)
    mended = len(strange) > 0 and not unlike(1 - strange, Brightness(mean, deviation)).any()
    return int((signs > 0).sum()), int((signs < 0).sum()), mended


def read_trained_on(said: Any, source: str) -> TrainedOn | None:
    """Return what a checkpoint or a file says about its training data, checked; None if it says nothing.

    Args:
        said: plain values that `TrainedOn.plain` has made, from a file that may be from elsewhere.
        source: the file, for the message.

    Raises:
        InputError: it is not in that form.
    """
    if said is None:
        return None
    try:
        found = TrainedOn(**said)
        require_form(found)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{source}: what it says of its training images cannot be used ({first_line(error)}); export it again, or "
            "take another checkpoint"
        ) from error
    return found


def require_form(found: TrainedOn) -> None:
    """Refuse values of other types than `TrainedOn` states.

    Raises:
        ValueError, TypeError: names the value.
    """
    channels = found.in_shape[0]
    words = None if found.vocabulary is None else vocabulary_of(found.vocabulary, found.name)
    numbers: Sequence[Sequence[float]] = [
        *(found.statistics or []),
        *([] if found.brightness is None else [found.brightness]),
    ]
    for name, good in {
        "name": isinstance(found.name, str) and found.name.isprintable(),
        "class_names": isinstance(found.class_names, list)
        and (len(found.class_names) > 0) != found.of_sentences
        and all(isinstance(name, str) and name.isprintable() for name in found.class_names),
        "in_shape": shape_like(found.in_shape, 3 if words is None else 1 if found.of_sentences else 2)
        or (words is not None and shape_like(found.in_shape, 3)),  # of sentences with two entities
        "vocabulary": words is None or found.of_sentences or found.in_shape[0] == len(words),
        "stored_shape": found.stored_shape is None or shape_like(found.stored_shape),
        "num_labels": isinstance(found.num_labels, int),
        "normalization": found.normalization in get_args(Normalization),
        "statistics": found.statistics is None
        or (len(found.statistics) == 2 and all(len(each) == channels for each in found.statistics)),
        "brightness": found.brightness is None or len(found.brightness) == 2,
        "numbers": all(isinstance(n, float | int) and isfinite(n) for each in numbers for n in each),
        "value_range": found.value_range is None or is_range(found.value_range),
        "slot": found.slot is None or set(found.slot) == {"class_path", "init_args"},
    }.items():
        if not good:
            raise ValueError(f"{name}: {getattr(found, name, numbers)!r}"[:200])


def shape_like(shape: Sequence[int], dims: int = 3) -> bool:
    """Return whether a value is ``(C, H, W)``, or as many sizes as ``dims`` says."""
    return len(shape) == dims and all(isinstance(size, int) and size >= 1 for size in shape)


def listed(names: Sequence[str], most: int = 12) -> str:
    """Return names in one line, the first of many.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b, ...'
    """
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])
