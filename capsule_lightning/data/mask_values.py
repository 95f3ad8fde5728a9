"""What the values of masks mean: background, classes, and what is ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from capsule_lightning.data.targets import IGNORE
from capsule_lightning.errors import InputError, require, some_of

MOST_CLASSES = 256
"""Most different values that are taken for classes without being told."""
BORDER = 255
"""The value by which many data sets mark what is to be ignored, and in which two-valued masks show the object."""


class Meaning(NamedTuple):
    """What is stated about the values of masks, see `code_of`."""

    class_names: Sequence[str] | None = None
    class_values: Sequence[int] | None = None
    ignore_index: Sequence[int] | None = None
    background_index: int = 0


class MaskCode(NamedTuple):
    """Labels of the values of masks.

    Attributes:
        class_names: names of the classes, without the background.
        labels: the label of each value: 0 for the background, 1 and more for classes, `IGNORE` for what does not count.
        note: what was concluded from the values alone, to be told before training; empty if nothing was.
    """

    class_names: list[str]
    labels: Mapping[int, int]
    note: str

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return the labels ``(H, W)`` int16 of values ``(H, W)``, all of which are known."""
        found, places = np.unique(values, return_inverse=True)
        table = np.array([self.labels[int(value)] for value in found], dtype=np.int16)
        return table[places].reshape(values.shape)


def code_of(
    values: Sequence[int],
    source: str,
    class_names: Sequence[str] | None = None,
    class_values: Sequence[int] | None = None,
    ignore_index: Sequence[int] | None = None,
    background_index: int = 0,
) -> MaskCode:
    """Say what the values of masks mean.

    What is not stated is concluded from the values, and the note says so. If there are 0 and 255 alone, 255 is the
    object. If 255 is beside other classes whose numbers are small, from 1 without a gap or with names, it marks what is
    ignored, such as borders. Nothing else is concluded.

    Args:
        values: all that are found in any mask, ascending.
        source: of the masks, for messages.
        class_names: names of the classes without the background; None for their values.
        class_values: the value of each class; None for 1, 2, ... if there are names, or else for what is found.
        ignore_index: values that do not count; None to conclude it, empty for none.
        background_index: the value of the background.

    Raises:
        InputError: a value means nothing or two things, or may mean one thing or another; there is no class.
    """
    found = [value for value in values if value != background_index]
    notes = []
    if background_index not in values:
        notes.append(f"no pixel is {background_index}, the background (--data.background_index)")
    ignored = list(ignore_index or [])
    two_valued = found == [BORDER] and background_index == 0 and not ignored
    if ignore_index is None and BORDER in found and not two_valued and BORDER not in (class_values or ()):
        others = [value for value in found if value != BORDER]
        sure = bool(class_names or class_values) or others == list(range(1, len(others) + 1))
        require(
            sure,
            f"{source}: values {some_of([str(value) for value in values])}: 255 may be a class or what is ignored; "
            "say which with --data.ignore_index [255] or [], or with --data.class_values",
        )
        ignored = [BORDER]
        notes.append("255 is beside other classes: taken as a border, which is ignored (--data.ignore_index)")
    if class_values is None:
        shown = [value for value in found if value not in ignored]
        if two_valued and len(class_names or [""]) == 1:
            notes.append("masks of 0 and 255 alone: 255 is the object (--data.class_values)")
            class_values = [BORDER]
        elif class_names:
            class_values = range(1, len(class_names) + 1)
        else:
            require(
                len(shown) <= MOST_CLASSES,
                f"{source}: {len(shown):,} different values, more than {MOST_CLASSES}: are these masks of classes? if "
                "so, state --data.class_values",
            )
            class_values = shown
    names = list(class_names or (["object"] if two_valued else [str(value) for value in class_values]))
    require(
        len(names) == len(class_values),
        f"class_values={list(class_values)}: expected one for each of the {len(names)} class_names",
    )
    labels = {background_index: 0, **{value: number for number, value in enumerate(class_values, 1)}}
    labels |= dict.fromkeys(ignored, IGNORE)
    require(
        len(labels) == 1 + len(class_values) + len(ignored),
        f"background_index={background_index}, class_values={list(class_values)}, ignore_index={ignored}: a value is "
        "in two of them; expected one meaning for each",
    )
    require(names, f"{source}: only the background, {background_index}: expected at least one class")
    unknown = [value for value in values if value not in labels]
    if unknown:
        raise InputError(
            f"{source}: value {some_of([str(value) for value in unknown])} in the masks: expected "
            f"{background_index} for the background, {some_of([str(value) for value in class_values])} for classes"
            f"{f' or {ignored[0]} for what is ignored' if ignored else ''}; see --data.class_values and "
            "--data.ignore_index"
        )
    return MaskCode(names, labels, "; ".join(notes))
