"""Arrays in MATLAB files of version 5 to 7.2; those of version 7.3 are HDF5, see `hdf5_arrays`.

The format is MathWorks', "MAT-File Format" (https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf). It is
read here because a type of data that does not exist kills SciPy's compiled reader, and with it the process, which a
stranger's file must not. Only arrays of real numbers are read, and `matlab_arrays` unpacks nothing before it is known
how large it becomes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from capsule_lightning.data.array_files import Header
from capsule_lightning.data.regular_files import open_regular
from capsule_lightning.errors import require

_MATRIX, _COMPRESSED = 14, 15
"""Types of the data elements that hold variables."""
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""NumPy's types of data elements that hold numbers."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""NumPy's types of MATLAB's classes of full arrays of numbers."""
_STRUCT, _OPAQUE = 2, 17
"""MATLAB's classes of structs, and of objects such as tables, which have no dimensions; a nameless part serves them."""
_LOGICAL, _COMPLEX = 0x200, 0x800
"""Flags of an array."""
_HEAD = 2**16
"""Bytes in which a variable has to say what it is."""
_SLICE = 2**20
Order = Literal["big", "little"]


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
        """Give the values some rows at a time; the file's array is read as a whole.

        Raises:
            ValueError: they are damaged, or have been changed since the header was read.
        """
        with open_regular(self.path) as file:
            values = next((each.numbers() for each in _variables(file) if each.name == self.name), None)
        if values is None or (values.shape, values.dtype) != (self.header.shape, self.header.dtype):
            raise ValueError(f"{self.name} has changed while it was read")
        values = np.moveaxis(values, -1, 0) if self.is_last else values
        yield from (values[start : start + rows] for start in range(0, len(values), rows))


class _Variable(NamedTuple):
    """A variable, of which only what it says of itself has been read.

    Attributes:
        name: its name.
        shape: its dimensions.
        kind: MATLAB's class.
        flags: see `_LOGICAL`.
        order: of its bytes.
        read: returns all of them.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    flags: int
    order: Order
    read: Callable[[], bytes | memoryview]

    @property
    def dtype(self) -> np.dtype | None:
        """NumPy's type of its values; None if they are not real numbers."""
        if self.kind not in _CLASSES or self.flags & _COMPLEX:
            return None
        return np.dtype("?" if self.flags & _LOGICAL else _CLASSES[self.kind])

    def contents(self) -> Iterator[tuple[int, memoryview]]:
        """Yield type and bytes of each data element after its name."""
        return islice(_elements(self.read(), self.order), 3, None)

    def numbers(self) -> np.ndarray:
        """Return its values.

        Raises:
            ValueError: they are not real numbers, or not as many as its dimensions say.
        """
        kind, content = next(self.contents(), (0, memoryview(b"")))
        if self.dtype is None or kind not in _NUMBERS:
            raise ValueError(f"{self.name} holds no real numbers")
        values = np.frombuffer(content, np.dtype(_NUMBERS[kind]).newbyteorder(self.order))
        if len(values) != prod(self.shape):
            raise ValueError(f"{self.name} holds {len(values):,} numbers, expected {prod(self.shape):,}")
        return values.astype(self.dtype, copy=False).reshape(self.shape, order="F")


def matlab_arrays(path: Path, most: int, ratio: int) -> dict[str, MatlabArray]:
    """Return the arrays of real numbers in a MATLAB file; structs, cells, texts and what has no name are left out.

    Args:
        path: the file.
        most: bytes that any part of it may unpack to.
        ratio: how many times its packed size a larger part may have.

    Raises:
        InputError: a part would unpack to more.
        ValueError, zlib.error: the file is damaged.
    """
    require_unpacked(path, most, ratio)
    with open_regular(path) as file:
        found = [(each.name, each.shape, each.dtype) for each in _variables(file)]
    return {name: MatlabArray(path, name, Header(shape, kind, 0)) for name, shape, kind in found if name and kind}


def matlab_struct(file: IO[bytes], name: str, wanted: Sequence[str]) -> list[np.ndarray]:
    """Return fields of a struct that are arrays of real numbers.

    Args:
        file: a MATLAB file.
        name: of the variable, which is one struct.
        wanted: names of the fields.

    Raises:
        ValueError, zlib.error: the file is damaged, or there is no such struct, or no such field.
    """
    struct = next((each for each in _variables(file) if each.name == name), None)
    if struct is None or struct.kind != _STRUCT or prod(struct.shape) != 1:
        raise ValueError(f"there is no struct {name}")
    contents = [content for _, content in struct.contents()]
    if len(contents) < 2:
        raise ValueError(f"{name} does not say which fields it has")
    width, names = contents[:2]
    size = max(int.from_bytes(width, struct.order), 1)
    fields = [bytes(names[start : start + size]).split(b"\0")[0].decode() for start in range(0, len(names), size)]
    found = dict(zip(fields, contents[2:], strict=True))
    for field in wanted:
        if field not in found:
            raise ValueError(f"{name} has no field {field}, but {', '.join(fields)}")
    return [_variable(found[field], struct.order, partial(found.__getitem__, field)).numbers() for field in wanted]


def require_unpacked(path: Path, most: int, ratio: int) -> None:
    """Refuse a file that would unpack to far more than it holds; see `matlab_arrays`.

    Raises:
        InputError: names the first part.
    """
    with open_regular(path) as file:
        for kind, start, size, _ in _parts(file):
            unpacked, left, stream = 0, size if kind == _COMPRESSED else 0, zlib.decompressobj()
            file.seek(start)
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


def _parts(file: IO[bytes]) -> Iterator[tuple[int, int, int, Order]]:
    """Yield type, first byte, number of bytes and order of bytes of each part of a file."""
    start = file.read(128)
    if start[126:] not in (b"IM", b"MI"):
        raise ValueError("does not begin as a MATLAB file of version 5")
    order: Order = "big" if start[126:] == b"MI" else "little"
    at = len(start)
    while len(tag := file.read(8)) == 8:
        kind, size = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order)
        yield kind, at + 8, size, order
        at += 8 + size
        file.seek(at)


def _variables(file: IO[bytes]) -> Iterator[_Variable]:
    """Yield the variables of a file, which are read while it is open."""
    for kind, start, size, order in _parts(file):
        if kind in (_MATRIX, _COMPRESSED):
            read = partial(_read, file, kind, start, size, order)
            yield _variable(read(_HEAD), order, read)


def _read(file: IO[bytes], kind: int, start: int, size: int, order: Order, most: int | None = None) -> bytes:
    """Return the bytes of a variable, unpacked and without its tag, or the first of them."""
    file.seek(start)
    content = file.read(size if most is None else min(size, most))
    if kind == _MATRIX:
        return content
    unpacked = zlib.decompressobj().decompress(content, 0 if most is None else most)
    if int.from_bytes(unpacked[:4], order) != _MATRIX:
        raise ValueError("a packed part holds no variable")
    return unpacked[8:]


def _variable(head: bytes | memoryview, order: Order, read: Callable[[], bytes | memoryview]) -> _Variable:
    """Return a variable, from its first bytes."""
    said = [content for _, content in islice(_elements(head, order), 3)]
    flags = int.from_bytes(said[0][:4], order) if said else 0
    if flags & 0xFF == _OPAQUE:
        return _Variable("", (0,), _OPAQUE, flags, order, read)
    if len(said) < 3 or len(said[1]) % 4:
        raise ValueError("a variable does not say what it is")
    shape = np.frombuffer(said[1], np.dtype("i4").newbyteorder(order)).tolist()
    if not shape or min(shape) < 0:
        raise ValueError(f"a variable has the dimensions {shape}")
    return _Variable(bytes(said[2]).decode(), tuple(shape), flags & 0xFF, flags, order, read)


def _elements(content: bytes | memoryview, order: Order) -> Iterator[tuple[int, memoryview]]:
    """Yield type and bytes of each data element in the bytes of a variable.

    Raises:
        ValueError: one does not end within them.
    """
    at, view = 0, memoryview(content)
    while at + 8 <= len(content):
        kind, size = (int.from_bytes(view[at + start : at + start + 4], order) for start in (0, 4))
        small = kind >> 16  # of up to four bytes, which are within the tag
        start = at + 4 if small else at + 8
        kind, size = (kind & 0xFFFF, small) if small else (kind, size)
        if start + size > len(content) or small > 4:
            raise ValueError("a variable is cut off")
        yield kind, view[start : start + size]
        at = at + 8 if small else start + size + -size % 8
