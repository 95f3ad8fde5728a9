"""Split a set so that each class is on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from capsule_lightning.errors import InputError, some_of


def split_off(
    labels: Tensor, size: float | int, seed: int, option: str = "val_size", class_names: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """Split a set, stratified by label.

    Args:
        labels: ``(N)`` int64.
        size: size of the part split off, a number of examples or a fraction of N.
        seed: chooses the examples.
        option: the option that sets ``size``, for the error.
        class_names: names of the classes, for the error; their numbers if there are none.

    Returns:
        Indices of what remains and of what is split off, both in ascending order.

    Raises:
        InputError: the size leaves a class without examples on one side.
    """
    indices = torch.arange(len(labels))
    count = round(size * len(labels)) if 0 < size < 1 else int(size)
    if count == 0:
        return indices, indices[:0]
    counts = labels.bincount()
    classes, rarest = int((counts > 0).sum()), int(counts[counts > 0].min())
    if rarest < 2:
        lonely = [str(class_names[n] if class_names else n) for n in (counts == 1).nonzero()[:, 0].tolist()]
        raise InputError(
            f"{option}={size}: cannot split {count} of {len(labels)} examples off: {some_of(lonely)} with 1 example "
            f"would be on one side alone; add examples{', or set --data.val_size 0' * (option == 'val_size')}, or "
            "leave the class out"
        )
    if not classes <= count <= len(labels) - classes:
        raise InputError(
            f"{option}={size}: cannot split {count} of {len(labels)} examples off, each of {classes} classes on both "
            f"sides: expected {classes} to {len(labels) - classes}; change --data.{option}"
        )
    from sklearn.model_selection import train_test_split

    kept, taken = train_test_split(indices.numpy(), test_size=count, random_state=seed, stratify=labels.numpy())
    return torch.from_numpy(kept).sort().values, torch.from_numpy(taken).sort().values
