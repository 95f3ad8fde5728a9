"""Arrays in MATLAB files of version 5 to 7.2; those of version 7.3 are HDF5, see `hdf5_arrays`.

The format is MathWorks', "MAT-File Format" (https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf). SciPy
reads it; only arrays of numbers are asked for, and nothing is unpacked before it is known how large it becomes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from capsule_lightning.data.array_files import Header
from capsule_lightning.data.regular_files import open_regular
from capsule_lightning.errors import require

TYPES = {
    "double": "f8",
    "single": "f4",
    "logical": "?",
    **{f"{sign}int{bits}": f"{sign or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""NumPy's types of MATLAB's arrays of numbers."""
_COMPRESSED = 15
_SLICE = 2**20


class MatlabArray(NamedTuple):
    """An array of numbers in a MATLAB file.

    Attributes:
        path: the file.
        name: of the variable.
        header: its shape and type.
        is_last: whether its last dimension numbers the examples, and not its first.
    """

    path: Path
    name: str
    header: Header
    is_last: bool = False

    def slices(self, rows: int) -> Iterator[np.ndarray]:
        """Give the values some rows at a time; the file's array is read as a whole."""
        from scipy.io import loadmat

        with open_regular(self.path) as file:
            values = np.asarray(loadmat(file, variable_names=[self.name])[self.name])
        values = values.astype(bool) if self.header.dtype.kind == "b" else values
        values = np.moveaxis(values, -1, 0) if self.is_last else values
        yield from (values[start : start + rows] for start in range(0, len(values), rows))


def matlab_arrays(path: Path, most: int, ratio: int) -> dict[str, MatlabArray]:
    """Return the arrays of numbers in a MATLAB file; structs, cells and texts are left out.

    Args:
        path: the file.
        most: bytes that any part of it may unpack to.
        ratio: how many times its packed size a larger part may have.

    Raises:
        InputError: a part would unpack to more.
        Exception: SciPy raises anything for a broken file.
    """
    from scipy.io import whosmat

    require_unpacked(path, most, ratio)
    with open_regular(path) as file:
        found = whosmat(file)
    return {
        name: MatlabArray(path, name, Header(tuple(shape), np.dtype(TYPES[kind]), 0))
        for name, shape, kind in found
        if kind in TYPES
    }


def require_unpacked(path: Path, most: int, ratio: int) -> None:
    """Refuse a file that would unpack to far more than it holds; see `matlab_arrays`.

    Raises:
        InputError: names the first part.
    """
    with open_regular(path) as file:
        start = file.read(128)
        order: Literal["big", "little"] = "big" if start[126:128] == b"MI" else "little"
        while len(tag := file.read(8)) == 8:
            kind, size = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order)
            end = file.tell() + size
            if kind == _COMPRESSED:
                unpacked, left, stream = 0, size, zlib.decompressobj()
                while left > 0 and (packed := file.read(min(_SLICE, left))):
                    left -= len(packed)
                    while packed:
                        unpacked += len(stream.decompress(packed, _SLICE))
                        packed = stream.unconsumed_tail
                        require(
                            unpacked <= max(most, ratio * size),
                            f"{path}: {size:,} of its bytes would unpack to more than {unpacked:,}; expected at most "
                            f"{ratio} times as many, or {most:,}; save it with -v6, which does not pack",
                        )
            file.seek(end)
