"""Arrays in HDF5 files, which MATLAB files of version 7.3 are, too.

Of a file, only what it holds itself is read: no link to another file, no virtual data set and no external storage is
followed, and no filter is used that HDF5 would load a plugin for. https://docs.h5py.org describes the terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from capsule_lightning.data.array_files import Header
from capsule_lightning.errors import InputError, require

if TYPE_CHECKING:
    import h5py

MOST_NAMES = 10_000
"""Most data sets and groups of a file that are looked at."""
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
"""Filters that come with HDF5 and h5py, by their registered numbers."""
_LONGEST_WORD = 1000  # characters of a label


class Hdf5Array(NamedTuple):
    """A data set in an HDF5 file.

    Attributes:
        path: the file.
        name: of the data set, with those of its groups.
        header: its shape and type; texts of any length are told as ``U``.
        is_matlab: whether MATLAB has written it, whose dimensions are in the opposite order in the file.
        is_last: whether its last dimension numbers the examples, and not its first.
    """

    path: Path
    name: str
    header: Header
    is_matlab: bool = False
    is_last: bool = False

    def slices(self, rows: int) -> Iterator[np.ndarray]:
        """Give the values some rows at a time."""
        with opened_hdf5(self.path) as file:
            found = file[self.name]
            count = self.header.shape[-1 if self.is_last else 0]
            for start in range(0, count, rows):
                here = slice(start, min(start + rows, count))
                yield self._rows(found, here)

    def _rows(self, found: h5py.Dataset, here: slice) -> np.ndarray:
        if self.header.dtype.kind == "U":
            words = [word.decode("utf-8", "backslashreplace") for word in found[here].reshape(-1)]
            require(
                max(map(len, words)) <= _LONGEST_WORD,
                f"{self.path}: {self.name} has a text of more than {_LONGEST_WORD:,} characters; expected labels",
            )
            return np.array(words).reshape(-1, *self.header.shape[1:])
        if not self.is_matlab:
            return np.asarray(found[here])
        values = np.asarray(found[here] if self.is_last else found[(..., here)], self.header.dtype)
        return values.transpose(0, *range(values.ndim - 1, 0, -1)) if self.is_last else values.T


@contextmanager
def opened_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file to read it.

    Raises:
        InputError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f'{path}: is an HDF5 file, which h5py reads; install it: pip install "capsule_lightning[hdf5]"'
        ) from error
    with h5py.File(path, "r", locking="best-effort") as file:
        yield file


def hdf5_arrays(path: Path, most: int, ratio: int) -> dict[str, Hdf5Array]:
    """Return the data sets of a file by their names; links, and what is neither numbers nor texts, are left out.

    Args:
        path: the file.
        most: bytes that a data set may have, whatever it takes in the file.
        ratio: how many times the size that it takes in the file a larger one may have.

    Raises:
        InputError: a data set is elsewhere, or would unpack to more, or needs a plugin.
        Exception: h5py raises anything for a broken file.
    """
    with opened_hdf5(path) as file:
        return {name: _array(path, name, found, most, ratio) for name, found in _own_data(file)}


def _own_data(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Give the data sets that the file itself holds, each once."""
    import h5py

    waiting: list[tuple[str, Any]] = [("", file)]
    seen: set[Any] = set()
    looked_at = 0
    while waiting:
        prefix, group = waiting.pop()
        for key in group:
            looked_at += 1
            require(
                looked_at <= MOST_NAMES, f"{file.filename}: has more than {MOST_NAMES:,} names; expected a few arrays"
            )
            if not isinstance(group.get(key, getlink=True), h5py.HardLink) or key.startswith("#"):
                continue  # a link leads elsewhere; MATLAB keeps in #refs# what cells hold
            found = group[key]
            if isinstance(found, h5py.Group) and found.id not in seen:  # a hard link may lead back
                seen.add(found.id)
                waiting.append((f"{prefix}{key}/", found))
            elif isinstance(found, h5py.Dataset) and found.shape and _is_plain(found.dtype):
                yield f"{prefix}{key}", found


def _is_plain(dtype: np.dtype) -> bool:
    """Return whether values are numbers or texts."""
    import h5py

    return dtype.kind in "biufS" or h5py.check_string_dtype(dtype) is not None


def _array(path: Path, name: str, found: h5py.Dataset, most: int, ratio: int) -> Hdf5Array:
    """Return a data set, which is known to be harmless.

    Raises:
        InputError: it is not.
    """
    import h5py

    title = f"{path}: {name}"
    require(
        not found.is_virtual and not found.external,
        f"{title}: is in other files, which are not followed; copy it into one file",
    )
    plan = found.id.get_create_plist()
    filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    unknown = [str(number) for number in filters if number not in FILTERS]
    require(
        not unknown,
        f"{title}: is packed by filter {', '.join(unknown)}, which needs a plugin; expected "
        f"{', '.join(FILTERS.values())}; save it again",
    )
    size = max(prod(found.shape), prod(found.chunks or ())) * found.dtype.itemsize
    packed = min(found.id.get_storage_size(), path.stat().st_size)
    require(
        size <= max(most, ratio * packed),
        f"{title}: has {packed:,} bytes that would unpack to {size:,}; expected at most {ratio} times as many, or "
        f"{most:,}; save it without compression",
    )
    text = h5py.check_string_dtype(found.dtype)
    matlab = "MATLAB_class" in found.attrs
    dtype = np.dtype("U1") if text is not None and text.length is None else found.dtype
    if matlab and found.attrs["MATLAB_class"] == b"logical":
        dtype = np.dtype(bool)
    shape = found.shape[::-1] if matlab else found.shape
    return Hdf5Array(path, name, Header(tuple(shape), dtype, 0), matlab)
