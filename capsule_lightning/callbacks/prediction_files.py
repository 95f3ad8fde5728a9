"""Files of predictions that grow a batch at a time and take their places once they are whole.

What is kept in memory does not grow with the number of images, but for their names in a file of arrays.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from typing_extensions import override

from capsule_lightning.errors import InputError
from capsule_lightning.runs.csv_text import csv_text
from capsule_lightning.runs.files import open_whole

PARQUET = ".parquet"
"""How the name of a table ends that is no CSV."""
LINES = ".txt"
"""How the name of a file ends that has the predictions alone."""
_MOST_CELLS = 2**22
"""Cells that a Parquet file gets at once."""


class Row(NamedTuple):
    """What is kept of one example.

    Attributes:
        number: its place in the data.
        labels: its labels; -1 if they are not known.
        classes: the predicted classes.
        confidence: length of the predicted capsule, see `confidences`.
        error: reconstruction error; None without a decoder.
        brightness: mean of its picture in [0, 1]; NaN if it has none.
        lengths: ``(J)``, of the class capsules.
        poses: ``(J, E)``; None unless they are asked for.
        probability: of the predicted class, at the temperature that the checkpoint holds; None if it holds none.
        likely: classes of the conformal set; None if the checkpoint knows none.
    """

    number: int
    labels: list[int]
    classes: list[int]
    confidence: float
    error: float | None
    brightness: float
    lengths: list[float]
    poses: np.ndarray | None
    probability: float | None = None
    likely: list[int] | None = None


class PredictionFile(ABC):
    """A file that takes rows of predictions, and takes its place once it is finished.

    Args:
        path: the place.
        class_names: names of the J classes.
        example: what an example is called, which heads the column of their names.
        overwrite: replace a file that is there.
        make_folder: make the folder of the place if it does not exist.
        option: the option that chose the place, for messages.
    """

    def __init__(
        self,
        path: Path,
        class_names: Sequence[str],
        *,
        example: str = "image",
        overwrite: bool = False,
        make_folder: bool = False,
        option: str = "--output",
    ) -> None:
        self.path, self.class_names, self.example = path, class_names, example
        self._stack = ExitStack()
        whole = open_whole(path, overwrite=overwrite, make_folder=make_folder, remedy=f"choose another {option}")
        self.file = self._stack.enter_context(whole)

    def add(self, rows: Sequence[Row], names: Sequence[str]) -> None:
        """Write rows below those that are there.

        Args:
            rows: of at least one example.
            names: of the examples.

        Raises:
            InputError: the file cannot be written.
        """
        with self._heeded():
            self.write(rows, names)

    def finish(self) -> None:
        """Write what is left and let the file take its place.

        Raises:
            InputError: the file cannot be written.
        """
        with self._heeded():
            self.end()
        self._stack.close()

    def abandon(self) -> None:
        """Leave the place as it was."""
        with suppress(_AbandonedError), self._stack:
            raise _AbandonedError

    @abstractmethod
    def write(self, rows: Sequence[Row], names: Sequence[str]) -> None:
        """Write rows to ``file``, or keep them for later."""

    def end(self) -> None:  # noqa: B027
        """Write whatever comes after the last row."""

    @contextmanager
    def _heeded(self) -> Iterator[None]:
        """Let what opened the file answer for what fails while it is written."""
        try:
            yield
        except BaseException:
            if not self._stack.__exit__(*sys.exc_info()):
                raise


class _AbandonedError(Exception):
    """Whoever writes a file does not want it any more."""


class CSVTable(PredictionFile):
    """Predictions as the rows of a CSV file."""

    _begun = False

    @override
    def write(self, rows: Sequence[Row], names: Sequence[str]) -> None:
        lines: list[Sequence[object]] = []
        for row, name in zip(rows, names, strict=True):
            cells = columns(row, name, self.class_names, self.example)
            if not self._begun:
                lines.append([*cells])
                self._begun = True
            lines.append([in_cell(cell) for cell in cells.values()])
        self.file.write(csv_text(lines).encode("utf-8", "backslashreplace"))


class Lines(PredictionFile):
    """The predicted class of each example, one in a line; several in one line, with commas between."""

    @override
    def write(self, rows: Sequence[Row], names: Sequence[str]) -> None:
        lines = "".join(f"{in_words(row.classes, self.class_names)}\n" for row in rows)
        self.file.write(lines.encode("utf-8", "backslashreplace"))


class ParquetTable(PredictionFile):
    """Predictions as the rows of a Parquet file: text, numbers and, for a conformal set, lists of text."""

    def __init__(self, path: Path, class_names: Sequence[str], **options: Any) -> None:
        self._parquet = parquet_library()
        super().__init__(path, class_names, **options)
        self._writer: Any = None
        self._waiting: list[dict[str, Any]] = []

    @override
    def write(self, rows: Sequence[Row], names: Sequence[str]) -> None:
        self._waiting += [
            columns(row, name, self.class_names, self.example) for row, name in zip(rows, names, strict=True)
        ]
        if len(self._waiting) * len(self._waiting[0]) >= _MOST_CELLS:
            self._write_waiting()

    @override
    def end(self) -> None:
        self._write_waiting()
        if self._writer is not None:
            self._writer.close()

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        import pyarrow

        if self._writer is None:
            kinds = {"set": pyarrow.list_(pyarrow.string())}
            kinds |= dict.fromkeys((self.example, "label", "prediction"), pyarrow.string())
            schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in waiting[0]])
            self._writer = self._parquet.ParquetWriter(self.file, schema)
        self._writer.write_table(pyarrow.Table.from_pylist(waiting, self._writer.schema))


def parquet_library() -> Any:
    """Return what writes Parquet files.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            'pyarrow writes Parquet files, and is not installed: pip install "capsule_lightning[parquet]", or choose '
            "an --output that ends in .csv"
        ) from error
    return pyarrow.parquet


class EmbeddingsFile(PredictionFile):
    """Predictions as arrays by name in an ``.npz`` file: N images, J classes, poses of E numbers.

    These are ``names (N)``, ``class_names (J)``, ``labels`` and ``classes (N)`` or, of L labels, ``(N, L)``, the
    activations ``lengths (N, J)``, and ``poses (N, J, E)`` if they are known. How many images there are is known at the
    end alone, so each array grows in a file of its own beside the place, which has no name.
    """

    def __init__(self, path: Path, class_names: Sequence[str], **options: Any) -> None:
        super().__init__(path, class_names, **options)
        self._names: list[str] = []
        self._parts: dict[str, _Growing] = {}

    @override
    def write(self, rows: Sequence[Row], names: Sequence[str]) -> None:
        self._names += names
        labels, classes = np.array([row.labels for row in rows]), np.array([row.classes for row in rows])
        self._grow("labels", labels[:, 0] if labels.shape[1] == 1 else labels)
        self._grow("classes", classes[:, 0] if classes.shape[1] == 1 else classes)
        self._grow("lengths", np.array([row.lengths for row in rows], dtype=np.float32))
        poses = [row.poses for row in rows if row.poses is not None]
        if poses:
            self._grow("poses", np.stack(poses))

    @override
    def end(self) -> None:
        with zipfile.ZipFile(self.file, "w", allowZip64=True) as archive:
            for name, words in (("names", self._names), ("class_names", [*self.class_names])):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.array(words, dtype=str), allow_pickle=False)
            for name, part in self._parts.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    part.copy_to(member)

    def _grow(self, name: str, values: np.ndarray) -> None:
        if name not in self._parts:
            file = self._stack.enter_context(tempfile.TemporaryFile(dir=self.path.parent))  # noqa: SIM115
            self._parts[name] = _Growing(file, values.dtype, values.shape[1:])
        self._parts[name].add(values)


class _Growing:
    """An array in a file, which gets row after row.

    Args:
        file: empty, to write and read.
        dtype: of the values.
        shape: of a row.
    """

    def __init__(self, file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self.file, self.dtype, self.shape, self.count = file, dtype, shape, 0

    def add(self, values: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.count += len(values)

    def copy_to(self, member: IO[bytes]) -> None:
        """Write the array in NumPy's format."""
        descr = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(member, header)
        self.file.seek(0)
        shutil.copyfileobj(self.file, member, 2**20)


def columns(row: Row, name: str, class_names: Sequence[str], example: str) -> dict[str, Any]:
    """Return the cells of an example by the names of their columns; None for what is not known.

    The conformal set is a list of the names of its classes; several labels, or classes, are one text.
    """
    sure = {} if row.likely is None else {"probability": row.probability, "set": names_of(row.likely, class_names)}
    return {
        example: name,
        "label": in_words(row.labels, class_names) or None,
        "prediction": in_words(row.classes, class_names),
        "confidence": row.confidence,
        "reconstruction_error": row.error,
        **sure,
        **{f"length_{each}": length for each, length in zip(class_names, row.lengths, strict=True)},
    }


def in_cell(value: object) -> object:
    """Return a value as a CSV file has it.

    Example:
        >>> in_cell(["cat", "dog"]), in_cell(None), in_cell(0.5)
        ('cat, dog', '', 0.5)
    """
    return ", ".join(value) if isinstance(value, list) else "" if value is None else value


def in_words(numbers: Sequence[int], class_names: Sequence[str]) -> str:
    """Return the names of classes as one text; empty for one that is not known."""
    return ", ".join(names_of(numbers, class_names))


def names_of(numbers: Sequence[int], class_names: Sequence[str]) -> list[str]:
    """Return the names of classes, without those that are not known."""
    return [class_names[number] for number in numbers if number >= 0]
