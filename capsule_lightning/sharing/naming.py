"""Which classes a shared network names if an image may have several, as its file states it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capsule_lightning.components.foreign import component
from capsule_lightning.components.names import modernized
from capsule_lightning.errors import InputError, first_line, require
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.losses.naming import LongestCapsules, Naming, PresentClasses
from capsule_lightning.runs.plain_json import parse_json
from capsule_lightning.sharing.checkpoint import OF_SETS
from capsule_lightning.sharing.metadata import Metadata


def naming_of(metadata: Metadata, path: str | Path) -> Naming | None:
    """Return what names the classes of an image that may have several; None if each has one, or only its parts have.

    Args:
        metadata: see `capsule_lightning.sharing.network_file.read_metadata`.
        path: the file that they are from, for the message.

    Raises:
        InputError: the number of classes, the threshold or the loss cannot be used.
    """
    try:
        count = parse_json(metadata.get("num_labels", "1"), "num_labels")
        require(
            isinstance(count, int) and 0 <= count <= parse_json(metadata["num_classes"], "num_classes"),
            f"num_labels={count!r}: expected 0 for any number, or at most as many as there are classes",
        )
        if count:
            return None if count == 1 else LongestCapsules(count)
        given = _stated(metadata)
        threshold, slot = given.get("threshold"), modernized(given.get("loss"))
        if threshold is None:
            return None
        require(isinstance(threshold, int | float) and 0 < threshold < 1, f"threshold={threshold!r}: expected 0 to 1")
        loss: Any = MarginLoss if slot is None else component(slot, (ClassificationLoss,))
        return PresentClasses(loss().eval(), threshold)
    except (ValueError, TypeError, AttributeError) as error:  # InputError among them
        raise InputError(f"{path}: the classes that it names cannot be told ({first_line(error)})") from error


def _stated(metadata: Metadata) -> Mapping[str, Any]:
    """Return the arguments that say which classes are named; older files have them with those of the task alone."""
    task = parse_json(metadata["task"], "task") if "task" in metadata else {}
    return {
        **(task.get("init_args") or {}),
        **{key: parse_json(metadata[key], key) for key in OF_SETS if key in metadata},
    }
