"""Paths by the million, in a tenth of the memory that as many `Path`s take."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import overload

from typing_extensions import override


class PathList(Sequence[Path]):
    """Paths that are kept as one text, and made when they are asked for.

    Args:
        paths: the paths.

    Example:
        >>> str(PathList([Path("a"), Path("b/c")])[1]), len(PathList([]))
        ('b/c', 0)
    """

    def __init__(self, paths: Iterable[PurePath]) -> None:
        text, ends = bytearray(), array("q", [0])
        for path in paths:
            text += os.fsencode(path)
            ends.append(len(text))
        self._text, self._ends = bytes(text), ends

    @override
    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...

    @override
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        number = range(len(self))[index]  # of negative numbers and slices, too
        if isinstance(number, range):
            return [self[each] for each in number]
        return Path(os.fsdecode(self._text[self._ends[number] : self._ends[number + 1]]))
