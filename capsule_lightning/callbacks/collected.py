"""What callbacks take from predictions, and how that of all processes comes together."""

from __future__ import annotations

from typing import TypeVar

import lightning as L
from torch import distributed

Each = TypeVar("Each")


def offers(values: object, *fields: str) -> bool:
    """Return whether a prediction or a batch has all of some fields, none of them None.

    Example:
        >>> from types import SimpleNamespace
        >>> prediction = SimpleNamespace(classes=[3], reconstructions=None)
        >>> offers(prediction, "classes"), offers(prediction, "classes", "reconstructions")
        (True, False)
    """
    return all(getattr(values, field, None) is not None for field in fields)


def offers_pictures(batch: object) -> bool:
    """Return whether a batch has pictures that can be drawn; a vector, a single pixel of many channels, is none."""
    pictures = getattr(batch, "pictures", None)
    return pictures is not None and tuple(pictures.shape[-2:]) != (1, 1)


def of_all_processes(trainer: L.Trainer, rows: list[Each]) -> list[Each]:
    """Return what all processes of a run have collected, one after the other; every process calls this."""
    if trainer.world_size == 1:
        return rows
    parts: list[list[Each]] = [[] for _ in range(trainer.world_size)]
    distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
