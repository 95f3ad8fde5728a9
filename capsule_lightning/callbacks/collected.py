"""What callbacks take from predictions, and how that of all processes comes together."""

from __future__ import annotations

from typing import TypeVar

import lightning as L
import torch
from torch import Tensor, distributed

from capsule_lightning.errors import printable, some_of

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


def confidences(activations: Tensor, classes: Tensor) -> Tensor:
    """Return the activation of the least certain of the predicted classes of each image.

    If an image has none, it is 1 less the greatest of all.

    Args:
        activations: ``(B, J)`` in [0, 1].
        classes: ``(B, L)`` int64, -1 in places without a class.

    Returns:
        ``(B)``.

    Example:
        >>> confidences(torch.tensor([[0.5, 0.75], [0.25, 0.0]]), torch.tensor([[0, 1], [-1, -1]]))
        tensor([0.5000, 0.7500])
    """
    found = torch.where(classes < 0, torch.inf, activations.gather(1, classes.clamp_min(0))).amin(dim=1)
    return torch.where(found.isinf(), 1 - activations.amax(dim=1), found)


def named(classes: list[int]) -> list[int]:
    """Return classes without the places that have none, which are -1."""
    return [each for each in classes if each >= 0]


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


def damaged_of_all_processes(trainer: L.Trainer) -> list[str]:
    """Return a line about images to predict that could not be read, if there are any; every process calls this."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    damaged = dict(of_all_processes(trainer, [*getattr(data, "damaged", {}).items()]))
    if not damaged:
        return []
    told = [f"{data.name_of(number)} ({printable(damaged[number])[:80]})" for number in sorted(damaged)]
    return [f"{len(damaged):,} damaged and left out: {some_of(told)}"]
