"""How a test set is taken off examples that have none of their own: a share of them, or one of several folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from torch import Tensor

from capsule_lightning.data.split_folders import Part
from capsule_lightning.data.stratified import fold_off, require_enough_for_folds, require_folds, split_off
from capsule_lightning.errors import InputError, require


class Division:
    """What is tested on, stratified and the same for every seed.

    Args:
        test_size: number or fraction of the examples.
        folds: number of parts, one of which is tested on in place of ``test_size`` examples; None for none.
        fold: which of the parts, from 0.
        noun: what an example is called, for errors.

    Raises:
        InputError: there is no such part.
    """

    def __init__(self, test_size: float | int, folds: int | None, fold: int, noun: str = "image") -> None:
        require_folds(folds, fold)
        self.test_size, self.folds, self.fold, self.noun = test_size, folds, fold, noun
        self._last: tuple[str, tuple[Tensor, Tensor]] | None = None

    def require_possible(self, own_parts: Mapping[Part, str]) -> None:
        """Refuse to take a test set off data that have one, and a share that cannot be.

        Args:
            own_parts: what the data call the parts that they list, by ``val`` and ``test``.

        Raises:
            InputError: names the option.
        """
        size = self.test_size
        require(
            "test" in own_parts
            or self.folds is not None
            or (size > 0 and (not isinstance(size, float) or size < 1 or size.is_integer())),
            f"test_size={size}: expected a fraction below 1 or a number of {self.noun}s",
        )
        require(
            self.folds is None or "test" not in own_parts,
            f"folds={self.folds}: these data have test {self.noun}s of their own ({own_parts.get('test')}); leave "
            "--data.folds out, or give data without a test set",
        )

    def require_enough(self, labels: Tensor, class_names: Sequence[str], groups: Sequence[str] | None = None) -> None:
        """Refuse more folds than a class has examples or groups, see `require_enough_for_folds`.

        Raises:
            InputError: names the class.
        """
        if self.folds is not None:
            require_enough_for_folds(labels, self.folds, class_names, groups)

    def off(
        self, labels: Tensor, title: str, class_names: Sequence[str], groups: Sequence[str] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the indices of what remains and of what is tested on, both in ascending order.

        Args:
            labels: ``(N)`` int64; or ``(N, L)``, see `split_sets_off`.
            title: what the examples are in.
            class_names: names of the classes, for errors.
            groups: the group of each example, see `split_off`.

        Raises:
            InputError: a class is not on both sides, or nothing is left to test on.
        """
        key = _digest(labels, groups)  # to divide by groups takes a second for some thousands of them
        if self._last is None or self._last[0] != key:
            if self.folds is None:
                found = split_off(labels, self.test_size, 0, "test_size", class_names, groups)
            else:
                found = fold_off(labels, self.folds, self.fold, class_names, groups)
            self._last = key, found
        kept, taken = self._last[1]
        if not len(taken):
            raise InputError(
                f"test_size={self.test_size}: leaves no {self.noun} to test on of the {len(labels)} in {title}; set "
                f"--data.test_size to at least {len(class_names)}, or add {self.noun}s"
            )
        return kept, taken

    def __str__(self) -> str:
        """Return the options that chose the test set."""
        if self.folds is not None:
            return f"--data.fold {self.fold} of --data.folds {self.folds}"
        return f"--data.test_size {self.test_size}"


def _digest(labels: Tensor, groups: Sequence[str] | None) -> str:
    digest = blake2b(labels.contiguous().numpy().tobytes(), digest_size=16)
    for group in groups or ():
        digest.update(group.encode() + b"\0")
    return digest.hexdigest() + str(groups is None)
