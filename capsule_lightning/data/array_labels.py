"""Arrays of labels: numbers, words, or a column for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.data.named_arrays import StoredArray, reading
from capsule_lightning.errors import InputError, require, some_of


class Labels(NamedTuple):
    """Labels as they are in a file.

    Attributes:
        title: of their array, for messages.
        values: ``(N)``, whole numbers or words.
        num_columns: J, if the array had a column for each class; else None.
        present: ``(N, J)`` bool, which classes each example has, if the array had a column for each; else None.
    """

    title: str
    values: np.ndarray
    num_columns: int | None
    present: np.ndarray | None = None

    @property
    def most(self) -> int:
        """Most classes of an example, at least 1."""
        return 1 if self.present is None else max(1, int(self.present.sum(axis=1).max()))

    @property
    def is_single(self) -> bool:
        """Whether each example has exactly one class."""
        return self.present is None or bool((self.present.sum(axis=1) == 1).all())

    def padded(self, width: int) -> Tensor:
        """Return the classes of each example ``(N, width)`` int64, ascending, and -1 in the places that are left."""
        assert self.present is not None
        here = torch.from_numpy(self.present)
        places = (~here).long().argsort(dim=1, stable=True)[:, :width]
        return torch.where(here.gather(1, places), places, -1)

    def some(self, places: Tensor) -> Labels:
        """Return those at places ``(M)`` int64."""
        present = None if self.present is None else self.present[places.numpy()]
        return self._replace(values=self.values[places.numpy()], present=present)


def read_labels(array: StoredArray) -> Labels:
    """Read labels.

    Args:
        array: ``(N)`` or ``(N, 1)``, whole numbers, also as floats, or words; or ``(N, J)`` with a 1 for each class of
            an example and 0 elsewhere.

    Raises:
        InputError: they are something else.
    """
    require(
        array.dtype.kind in "biufUS" and len(array.shape) <= 2,
        f"{array.title}: holds {array.shape} {array.dtype}; expected a whole number or a word for each image",
    )
    values = array.read()
    num_columns, present = None, None
    if values.ndim == 2 and values.shape[1] > 1:
        words = values.dtype.kind in "US"
        require(
            not words and np.isin(values, (0, 1)).all(),
            f"{array.title}: has {values.shape[1]} columns; expected one, or a 1 for each class of an image and 0 "
            "elsewhere",
        )
        num_columns, present, values = values.shape[1], values.astype(bool), values.argmax(axis=1)
    values = values.reshape(len(values))
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "backslashreplace")
    if values.dtype.kind == "U":
        with reading(array.path):
            values.tolist()  # fails where a file holds what is no character
    if values.dtype.kind == "f":
        wrong = values[~((np.abs(values) < 2**53) & (values == np.rint(values)))]
        if len(wrong):
            raise InputError(f"{array.title}: has {wrong[0]}; expected whole numbers or words; make classes of them")
    return Labels(array.title, values if values.dtype.kind == "U" else values.astype(np.int64), num_columns, present)


class Classes(NamedTuple):
    """The classes of a data set.

    Attributes:
        values: ``(J)``, ascending: the labels that stand for them in the file.
        numbers: ``(J)`` int64, the number of the class of each value.
        names: of the classes, in the order of their numbers; there may be more than J.
    """

    values: np.ndarray
    numbers: Tensor
    names: Sequence[str]

    def numbered(self, labels: Labels) -> Tensor:
        """Return labels as class numbers ``(N)`` int64.

        Raises:
            InputError: some are labels that no image to train on has.
        """
        alike = (labels.values.dtype.kind == "U") == (self.values.dtype.kind == "U")
        unknown = np.setdiff1d(labels.values, self.values) if alike else np.unique(labels.values)
        if len(unknown):
            raise InputError(
                f"{labels.title}: has the labels {some_of([str(each) for each in unknown])}, which no image to train "
                f"on has; expected {some_of([str(each) for each in self.values])}; add such images, or take these out"
            )
        return self.numbers[torch.from_numpy(np.searchsorted(self.values, labels.values))]


def classes_of_columns(labels: Labels, class_names: Sequence[str] | None) -> Classes:
    """Return the classes of examples that may have any number of them, which are the columns of the array.

    Args:
        labels: of the images to train on.
        class_names: of the columns; None for their numbers.

    Raises:
        InputError: there is no column for each class, or there are more or fewer names.
    """
    require(
        labels.num_columns is not None,
        f"{labels.title}: has one label for each image; expected a column of 0 and 1 for each class, as "
        "several_labels=true",
    )
    names = [str(n) for n in (range(labels.num_columns or 0) if class_names is None else class_names)]
    require(
        len(names) == labels.num_columns and len(set(names)) == len(names),
        f"class_names={some_of(names)}: {len(names)} names for the {labels.num_columns} columns of {labels.title}; "
        "expected a different one for each",
    )
    return Classes(np.arange(len(names)), torch.arange(len(names)), names)


def classes_of(labels: Labels, class_names: Sequence[str] | None) -> Classes:
    """Return the classes that labels of training images stand for.

    Args:
        labels: of the images to train on.
        class_names: words in the order of the classes; or the names of numbers, of 0 to J - 1 or of J others in
            ascending order. None for the labels themselves, ascending.

    Raises:
        InputError: there is only one class, or the names are not those of the labels.
    """
    values = np.unique(labels.values)
    found = [str(each) for each in values]
    if class_names is None:
        require(
            len(found) > 1, f"{labels.title}: has only the label {found[0]} to train on; expected two classes or more"
        )
        return Classes(values, torch.arange(len(values)), found)
    names = [str(name) for name in class_names]
    require(
        len(names) > 1 and len(set(names)) == len(names),
        f"class_names={some_of(names)}: expected two names or more, all of them different",
    )
    if values.dtype.kind == "U":
        unknown = sorted(set(found) - set(names))
        require(
            not unknown,
            f"{labels.title}: has the labels {some_of(unknown)}; expected those of class_names: {some_of(names)}",
        )
        return Classes(values, torch.tensor([names.index(each) for each in found]), names)
    if values[0] >= 0 and values[-1] < len(names):
        return Classes(values, torch.from_numpy(values), names)
    require(
        len(values) == len(names),
        f"class_names={some_of(names)}: {len(names)} names, and {labels.title} has the labels {some_of(found)}; "
        "expected a name for each, in ascending order",
    )
    return Classes(values, torch.arange(len(values)), names)
