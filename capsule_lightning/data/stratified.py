"""Split a set so that each class is on both sides."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from capsule_lightning.data.label_sets import fold_of_sets_off, require_enough_for_folds_of_sets, split_sets_off
from capsule_lightning.errors import InputError, require, some_of


def split_off(
    labels: Tensor,
    size: float | int,
    seed: int,
    option: str = "val_size",
    class_names: Sequence[str] = (),
    groups: Sequence[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """Split a set, stratified by label.

    Args:
        labels: ``(N)`` int64; or ``(N, L)``, see `split_sets_off`.
        size: size of the part split off, a number of examples or a fraction of N.
        seed: chooses the examples.
        option: the option that sets ``size``, for the error.
        class_names: names of the classes, for the error; their numbers if there are none.
        groups: the group of each example; all examples of a group stay on one side, and the size of the part split off
            is the nearest that groups allow. None if nothing must stay together.

    Returns:
        Indices of what remains and of what is split off, both in ascending order.

    Raises:
        InputError: the size leaves a class without examples on one side.
    """
    indices = torch.arange(len(labels))
    count = round(size * len(labels)) if 0 < size < 1 else int(size)
    if count == 0:
        return indices, indices[:0]
    if labels.ndim == 2:
        return split_sets_off(labels, min(count, len(labels)), seed, f"{option}={size}", class_names, groups)
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
    if groups is not None:
        split = _groups_off(labels, count, seed, groups)
        _require_all_classes(labels, split, f"{option}={size}", class_names)
        return split
    from sklearn.model_selection import train_test_split

    kept, taken = train_test_split(indices.numpy(), test_size=count, random_state=seed, stratify=labels.numpy())
    return torch.from_numpy(kept).sort().values, torch.from_numpy(taken).sort().values


def fold_off(
    labels: Tensor, folds: int, fold: int, class_names: Sequence[str] = (), groups: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Split off one of several parts of a set, stratified by label and the same for every seed.

    Each example is in exactly one part.

    Args:
        labels: ``(N)`` int64; or ``(N, L)``, see `fold_of_sets_off`.
        folds: number of parts, at least 2.
        fold: the part that is split off, from 0.
        class_names: names of the classes, for the error; their numbers if there are none.
        groups: the group of each example; all examples of a group are in one part. None if nothing must stay together.

    Returns:
        Indices of what remains and of the part, both in ascending order.

    Raises:
        InputError: a class has fewer examples, or groups, than there are parts.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> parts = [fold_off(labels, 3, fold)[1] for fold in range(3)]
        >>> sorted(torch.cat(parts).tolist()), labels[parts[0]].tolist()
        ([0, 1, 2, 3, 4, 5], [0, 1])
    """
    if labels.ndim == 2:
        return fold_of_sets_off(labels, folds, fold, class_names, groups)
    require_enough_for_folds(labels, folds, class_names, groups)
    split = _parts(labels, folds, 0, groups)[fold]
    _require_all_classes(labels, split, f"fold={fold} of {folds}", class_names)
    return split


def require_enough_for_folds(
    labels: Tensor, folds: int, class_names: Sequence[str] = (), groups: Sequence[str] | None = None
) -> None:
    """Refuse more parts than a class has examples or, if they are grouped, groups; see `fold_off`.

    Raises:
        InputError: names the class and how many parts there can be.
    """
    if labels.ndim == 2:
        require_enough_for_folds_of_sets(labels, folds, class_names)
        return
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero()[:, 0].tolist()
        count, what = len(members), "examples"
        if groups is not None:
            count, what = len({groups[n] for n in members}), "groups"
        require(
            count >= folds,
            f"folds={folds}: the class {class_names[label] if class_names else label} has only {count} {what}; set "
            f"--data.folds to at most {count}, or add examples",
        )


def require_folds(folds: int | None, fold: int) -> None:
    """Refuse a number of parts, or a part, that cannot be.

    Raises:
        InputError: names both.
    """
    require(folds is None or folds >= 2, f"folds={folds}: expected at least 2 parts, or null for none")
    if folds is None:
        require(fold == 0, f"fold={fold} without effect: set --data.folds too, to the number of parts")
    else:
        require(0 <= fold < folds, f"fold={fold}: expected 0 to {folds - 1}, as folds={folds}")


def _parts(labels: Tensor, parts: int, seed: int, groups: Sequence[str] | None) -> list[tuple[Tensor, Tensor]]:
    """Return, of each part of a set, what remains and the part."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings(action="ignore"):  # of classes with few groups, which are refused by name
        found = list(kind(parts, shuffle=True, random_state=seed).split(labels.numpy(), labels.numpy(), groups))
    return [(torch.from_numpy(kept).sort().values, torch.from_numpy(part).sort().values) for kept, part in found]


def _groups_off(labels: Tensor, count: int, seed: int, groups: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Split groups off: the first part of about ``count`` examples that has all classes, or else of more.

    If there is none, it is a half that lacks a class.
    """
    most = min(max(2, round(len(labels) / count)), len(set(groups)))
    if most < 2:
        return labels[:0], torch.arange(len(labels))
    for parts in range(most, 1, -1):
        for split in _parts(labels, parts, seed, groups):
            if not _missing(labels, split):
                return split
    return split


def _missing(labels: Tensor, split: tuple[Tensor, Tensor]) -> list[int]:
    """Return the classes that one side of a split lacks."""
    return sorted({label for side in split for label in set(labels.tolist()) - set(labels[side].tolist())})


def _require_all_classes(labels: Tensor, split: tuple[Tensor, Tensor], option: str, class_names: Sequence[str]) -> None:
    """Refuse a split by groups that leaves a class on one side alone."""
    missing = _missing(labels, split)
    if missing:
        named = some_of([str(class_names[n] if class_names else n) for n in missing])
        raise InputError(
            f"{option}: the groups cannot be split so that each class is on both sides (not so {named}); more groups "
            "of such a class would help"
        )
