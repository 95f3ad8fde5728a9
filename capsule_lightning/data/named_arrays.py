"""Arrays that are known by their names: in an ``.npz``, MATLAB or HDF5 file, or in the ``.npy`` files of a folder.

Nothing that a file says of itself is believed before it is compared with the length of that file, and nothing in it is
ever unpickled. The format is NumPy's: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from capsule_lightning.data.array_files import Header, header_of, map_array
from capsule_lightning.data.hdf5_arrays import Hdf5Array, hdf5_arrays
from capsule_lightning.data.matlab_arrays import MatlabArray, matlab_arrays
from capsule_lightning.data.regular_files import kind_of, open_regular
from capsule_lightning.errors import InputError, first_line, require, some_of

ANY = "{}"
"""What stands for the split in a name."""
PAIRS = (
    ("{}_images", "{}_labels"),  # MedMNIST
    ("{}/images", "{}/labels"),  # groups of HDF5
    ("x_{}", "y_{}"),  # Keras
    ("X_{}", "y_{}"),  # scikit-learn
    ("images", "labels"),
    ("x", "y"),
    ("X", "y"),
)
"""Names of images and labels that are known, the first that are there are taken."""
MOST_UNPACKED = 2**30
"""Bytes of an array that an archive of any size may unpack to."""
MOST_RATIO = 100
"""How many times its packed size a larger array may have: a hundred for pictures is far more than they give."""
_SLICE = 2**24
"""Bytes that are read at a time."""
_READERS: dict[bytes, Callable[[Path, int, int], Mapping[str, MatlabArray | Hdf5Array]]] = {
    b"MATLAB 5": matlab_arrays,
    b"MATLAB 7": hdf5_arrays,
    b"\x89HDF": hdf5_arrays,
}
"""What reads a file that begins so."""


class StoredArray(NamedTuple):
    """An array in a file, of which only the header has been read.

    Attributes:
        path: the archive, or the file.
        member: of the archive; None if the file holds nothing else.
        header: what it states, and its length bears out.
        source: what reads it, if the file is not NumPy's.
    """

    path: Path
    member: str | None
    header: Header
    source: MatlabArray | Hdf5Array | None = None

    @property
    def title(self) -> str:
        """Path and name, for messages."""
        return str(self.path) if self.member is None else f"{self.path}: {self.member}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape; the first dimension numbers the examples."""
        return self.header.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of its values."""
        return self.header.dtype

    def mapped(self) -> np.ndarray | None:
        """Memory-map the values, changes to which stay in memory; None if they cannot be, as those of an archive."""
        return map_array(self.path, self.header) if self.member is None and not self.header.fortran else None

    @property
    def is_matlab(self) -> bool:
        """Whether MATLAB has written it, where the last dimension usually numbers the examples."""
        return isinstance(self.source, MatlabArray) or (self.source is not None and self.source.is_matlab)

    def last_first(self) -> StoredArray:
        """Return the array of a MATLAB file with its last dimension, which numbers the examples, as the first."""
        assert self.source is not None
        source = self.source._replace(is_last=True)
        return self._replace(header=self.header._replace(shape=self.shape[-1:] + self.shape[:-1]), source=source)

    def read(self) -> np.ndarray:
        """Return all values.

        Raises:
            InputError: the file is damaged.
        """
        return np.concatenate([*self.slices()])

    def slices(self) -> Iterator[np.ndarray]:
        """Give the values a few rows at a time, ``(n, ...)``, in their order.

        An array in column-major order, whose rows do not lie together, is read as a whole.

        Raises:
            InputError: the file is damaged, or has been changed since its header was read.
        """
        if self.source is not None:
            with reading(self.path):
                yield from self.source.slices(self._rows())
            return
        whole = self.mapped()
        if whole is not None:
            size = self._rows()
            yield from (whole[start : start + size] for start in range(0, len(whole), size))
        elif self.member is None:
            with reading(self.path), open_regular(self.path) as file:
                file.seek(self.header.start)
                yield from self._unpacked(file)
        else:
            with opened(self.path) as archive, archive.open(f"{self.member}.npy") as file:
                if header_of(file, self.title, archive.getinfo(f"{self.member}.npy").file_size) != self.header:
                    raise InputError(f"{self.title}: has changed while it was read; begin again")
                yield from self._unpacked(file)

    def _rows(self) -> int:
        return max(_SLICE * self.shape[0] // (self.dtype.itemsize * int(np.prod(self.shape))), 1)

    def _unpacked(self, file: IO[bytes]) -> Iterator[np.ndarray]:
        """Give the values that begin where an open file stands."""
        count, row = self.shape[0], self.shape[1:]
        size = count if self.header.fortran else self._rows()
        for start in range(0, count, size):
            rows = min(size, count - start)
            values = np.empty((rows, *row), self.dtype, order="F" if self.header.fortran else "C")
            room = values.reshape(-1, order="A").view(np.uint8).data
            filled = 0
            while filled < len(room):
                read = file.readinto(room[filled:])  # type: ignore[attr-defined]
                if not read:
                    raise InputError(f"{self.title}: cut short; make the file again")
                filled += read
            yield values
        file.read(1)  # at the end an archive compares its checksum


class NamedArrays:
    """The arrays of an archive or a folder, by name.

    Args:
        path: an ``.npz``, ``.mat`` or HDF5 file, a folder with ``.npy`` files, or one ``.npy`` file, whose array has no
            name.
        option: the option that gave the path, for messages.

    Attributes:
        names: of the arrays.

    Raises:
        InputError: there is no such file, it is of another format, damaged, or holds no arrays.
    """

    def __init__(self, path: Path, option: str = "--data.path") -> None:
        self.path = path
        self._sources: Mapping[str, MatlabArray | Hdf5Array] = {}
        kind = kind_of(path)
        wanted = f"expected an .npz, .mat or HDF5 file, or a folder of .npy files; set {option}"
        if kind == "folder":
            self.names = sorted(file.stem for file in path.glob("*.npy"))
            require(
                self.names,
                f"{path}: no .npy file in this folder; {wanted}, or train on class folders of image files with "
                "--config image_folder.yaml",
            )
            return
        missing = "no such file or folder" if kind.startswith("no such") else f"is not a file ({kind})"
        require(kind == "file", f"{path}: {missing}; {wanted}")
        with reading(path), open_regular(path) as file:
            start = file.read(8)
        self.is_archive = start.startswith(b"PK")
        if self.is_archive:
            with opened(path) as archive:
                self.names = sorted(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
            require(self.names, f"{path}: holds no arrays; {wanted}")
        elif read := next((read for magic, read in _READERS.items() if start.startswith(magic)), None):
            with reading(path):
                self._sources = read(path, MOST_UNPACKED, MOST_RATIO)
            self.names = sorted(self._sources)
            require(self.names, f"{path}: holds no arrays of numbers; {wanted}")
        else:
            require(start.startswith(b"\x93NUMPY"), f"{path}: is no file of NumPy, or cut short; {wanted}")
            self.names = [""]

    def __contains__(self, name: str) -> bool:
        """Return whether there is an array of that name."""
        return name in self.names

    def __getitem__(self, name: str) -> StoredArray:
        """Return an array, whose header is read.

        Raises:
            InputError: there is none of that name, it holds objects, nothing, or more than its file can hold.
        """
        require(name in self.names, f"{self.path}: no array {name!r}; there are {some_of(self.names)}")
        file = self.path / f"{name}.npy" if kind_of(self.path) == "folder" else self.path
        if name in self._sources:
            found = StoredArray(file, name, self._sources[name].header, self._sources[name])
        elif name == "" or file != self.path:
            with reading(file), open_regular(file) as values:
                found = StoredArray(file, None, header_of(values, file.name, os.fstat(values.fileno()).st_size))
        else:
            with opened(self.path) as archive:
                info = archive.getinfo(f"{name}.npy")
                packed = min(info.compress_size, self.path.stat().st_size)  # an archive may lie about both
                if info.file_size > max(MOST_UNPACKED, MOST_RATIO * packed):
                    raise InputError(
                        f"{self.path}: {name} has {packed:,} bytes that would unpack to "
                        f"{info.file_size:,}; expected at most {MOST_RATIO} times as many, or {MOST_UNPACKED:,}; save "
                        "it with numpy.savez, which does not pack"
                    )
                with archive.open(info) as member:
                    found = StoredArray(self.path, name, header_of(member, name, info.file_size))
        require(
            found.shape and min(found.shape) > 0 and found.dtype.itemsize > 0,
            f"{found.title}: is empty, {found.shape} {found.dtype}; expected a row for each image",
        )
        return found


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Answer for whatever is wrong with a file.

    Raises:
        InputError: in place of any exception.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of a damaged archive: BadZipFile, zlib.error, EOFError, NotImplementedError, ...
        raise InputError(f"{path}: cannot be read ({first_line(error)[:200]}); make the file again") from error


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive, and answer for whatever is wrong with it.

    Raises:
        InputError: it is damaged.
    """
    with reading(path), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        yield archive
