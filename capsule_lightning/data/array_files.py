"""NumPy files, whose headers are checked against the file before anything is made of them."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from capsule_lightning.data.regular_files import open_regular
from capsule_lightning.errors import first_line

_LONGEST_HEADER = 10_000  # characters; it is a few words


class Header(NamedTuple):
    """What the header of a NumPy file states, and the file bears out.

    Attributes:
        shape: of the array.
        dtype: of its values.
        start: byte at which they begin.
        fortran: whether they are in column-major order, the first index changing fastest.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int
    fortran: bool = False


def read_header(path: Path) -> Header:
    """Read the header of a NumPy file.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not a NumPy file of plain values in row-major order, or its length is not what its header
            says.
    """
    with open_regular(path) as file:
        header = header_of(file, path.name, os.fstat(file.fileno()).st_size)
    if header.fortran:
        raise ValueError(f"{path.name} holds {header.shape} {header.dtype}, expected plain values in row-major order")
    return header


def header_of(file: IO[bytes], name: str, length: int) -> Header:
    """Read the header of NumPy's format from an open file, or from a member of an archive, of which it is the start.

    Args:
        file: at its beginning; it is left where the values begin.
        name: for messages.
        length: bytes of the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not in NumPy's format, does not hold plain values, or its length is not what its header says.
    """
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} is of version {version[0]}.{version[1]} of the format, expected 1.0 or 2.0")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file, max_header_size=_LONGEST_HEADER)
    except Exception as error:  # NumPy hands the header to Python's own parser, which raises anything
        raise ValueError(f"{name}: its header cannot be read ({first_line(error)[:80]})") from error
    start = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds {shape} {dtype} (pickles), which are never loaded; expected plain values")
    if min(shape, default=0) < 0:
        raise ValueError(f"{name} holds {shape} {dtype}, expected plain values")
    size = prod(shape) * dtype.itemsize
    if length - start != size:
        raise ValueError(f"{name} has {length - start:,} bytes of values, and its header speaks of {size:,}")
    return Header(shape, dtype, start, fortran)


def map_array(path: Path, header: Header) -> np.ndarray:
    """Memory-map the values of a file; changes stay in memory."""
    return np.memmap(path, header.dtype, "c", header.start, header.shape)
