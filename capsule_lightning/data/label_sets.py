"""Examples of any number of classes each: their labels as one tensor, and splits that are stratified by every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.errors import InputError, require, some_of


def padded(sets: Sequence[Sequence[int]], width: int) -> Tensor:
    """Return sets of classes as rows ``(N, width)`` int64, each in ascending order, and -1 in the places that are left.

    Example:
        >>> padded([(2, 0), (), (1,)], 2).tolist()
        [[0, 2], [-1, -1], [1, -1]]
    """
    return torch.tensor([[*sorted(each), *[-1] * (width - len(each))] for each in sets], dtype=torch.int64)


def present(labels: Tensor, num_classes: int) -> Tensor:
    """Return ``(N, J)`` int64, 1 at each of ``labels (N, L)`` and 0 elsewhere; -1 stands for no label.

    Example:
        >>> present(torch.tensor([[0, 2], [1, -1]]), 3).tolist()
        [[1, 0, 1], [0, 1, 0]]
    """
    places = torch.where(labels < 0, num_classes, labels)
    return labels.new_zeros(len(labels), num_classes + 1).scatter(1, places, 1)[:, :num_classes]


def split_sets_off(
    labels: Tensor, count: int, seed: int, option: str, class_names: Sequence[str], groups: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Split examples of any number of classes, stratified by every class.

    Args:
        labels: ``(N, L)`` int64, as `padded` gives them.
        count: size of the part split off, which may be missed by a few.
        seed: chooses the examples.
        option: what sets the size, with its value, for the error.
        class_names: names of the classes.
        groups: the group of each example; all examples of a group stay on one side. None if nothing must.

    Returns:
        Indices of what remains and of what is split off, both in ascending order.

    Raises:
        InputError: a class is on one side alone.
    """
    shares = [1 - count / len(labels), count / len(labels)]
    parts = stratified_parts(present(labels, len(class_names)), shares, seed, groups)
    split = (parts == 0).nonzero()[:, 0], (parts == 1).nonzero()[:, 0]
    _require_all(labels, split, option, class_names)
    return split


def fold_of_sets_off(
    labels: Tensor, folds: int, fold: int, class_names: Sequence[str], groups: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Split off one of several parts of examples of any number of classes, the same for every seed.

    Args:
        labels: ``(N, L)`` int64, as `padded` gives them.
        folds: number of parts, at least 2.
        fold: the part that is split off, from 0.
        class_names: names of the classes.
        groups: see `split_sets_off`.

    Returns:
        Indices of what remains and of the part, both in ascending order.

    Raises:
        InputError: a class has fewer examples than there are parts, or is on one side alone.
    """
    require_enough_for_folds_of_sets(labels, folds, class_names)
    parts = stratified_parts(present(labels, len(class_names)), [1 / folds] * folds, 0, groups)
    split = (parts != fold).nonzero()[:, 0], (parts == fold).nonzero()[:, 0]
    _require_all(labels, split, f"fold={fold} of {folds}", class_names)
    return split


def require_enough_for_folds_of_sets(labels: Tensor, folds: int, class_names: Sequence[str]) -> None:
    """Refuse more parts than a class of ``labels (N, L)`` has examples; see `fold_of_sets_off`.

    Raises:
        InputError: names the classes and how many parts there can be.
    """
    counts = present(labels, len(class_names)).sum(dim=0)
    few = [class_names[n] for n in ((counts > 0) & (counts < folds)).nonzero()[:, 0].tolist()]
    require(
        not few,
        f"folds={folds}: fewer examples of a class than folds ({some_of(few)}); set --data.folds to at most "
        f"{int(counts[counts > 0].min())}, or add examples",
    )


def stratified_parts(
    classes: Tensor, shares: Sequence[float], seed: int, groups: Sequence[str] | None = None
) -> Tensor:
    """Part examples so that each class is spread over the parts as the shares say, rare classes first.

    The class with the fewest examples that are left is dealt out, each example of it to the part that lacks most of
    that class; of several, to the one that lacks most examples, and of several again, to one that is drawn. Then the
    next class. Examples of no class come last.

    Args:
        classes: ``(N, J)``, 1 where an example has a class and 0 elsewhere.
        shares: of the parts, with the sum 1.
        seed: chooses the examples.
        groups: the group of each example, all of which go to the same part, with all their classes at once; None if
            nothing must stay together.

    Returns:
        ``(N)`` int64, the part of each example.

    Source: Sechidis, Tsoumakas & Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD 2011, Algorithm 1.
    """
    random = torch.Generator().manual_seed(seed)
    names = list(dict.fromkeys(groups)) if groups is not None else []
    number = {name: place for place, name in enumerate(names)}
    unit_of = torch.arange(len(classes)) if groups is None else torch.tensor([number[name] for name in groups])
    sizes = unit_of.bincount().double().numpy()
    units = len(sizes)
    counts = torch.zeros(units, classes.shape[1]).double().index_add(0, unit_of, classes.double()).numpy()
    order, lots = torch.randperm(units, generator=random).numpy(), torch.rand(units, generator=random).tolist()
    wanted = np.array(shares)
    lacking, room = np.outer(wanted, counts.sum(axis=0)), wanted * sizes.sum()  # (parts, J), (parts)
    part = np.full(units, -1)

    def deal(unit: int, lacks: np.ndarray) -> None:
        best = (lacks > lacks.max() - 1e-9).nonzero()[0]
        best = best[room[best] > room[best].max() - 1e-9]
        part[unit] = chosen = best[int(lots[unit] * len(best))]
        lacking[chosen] -= counts[unit]
        room[chosen] -= sizes[unit]

    left = counts.sum(axis=0)
    while (left > 0).any():
        rarest = np.where(left > 0, left, np.inf).argmin()
        for unit in order[(part[order] < 0) & (counts[order, rarest] > 0)].tolist():
            deal(unit, lacking[:, rarest])
        left = counts[part < 0].sum(axis=0)
    for unit in order[part[order] < 0].tolist():
        deal(unit, room)
    return torch.from_numpy(part)[unit_of]


def _require_all(labels: Tensor, split: tuple[Tensor, Tensor], option: str, class_names: Sequence[str]) -> None:
    """Refuse a split that has a class on one side alone."""
    there = [present(labels[side], len(class_names)).amax(dim=0) if len(side) else torch.zeros(1) for side in split]
    torn = [class_names[n] for n in ((there[0] != there[1]) & (there[0] + there[1] > 0)).nonzero()[:, 0].tolist()]
    if torn:
        raise InputError(
            f"{option}: cannot split the examples so that each class is on both sides (not so {some_of(torn)}); more "
            "examples of such a class would help, or another size"
        )
