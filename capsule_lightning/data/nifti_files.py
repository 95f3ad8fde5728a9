"""Volumes in NIfTI files, ``.nii`` and ``.nii.gz``, turned so that slices look as radiologists show them.

https://nifti.nimh.nih.gov describes the format, which nibabel reads. What the header states is checked before a voxel
is read, and no more is unpacked than the header states.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from capsule_lightning.data.regular_files import open_regular
from capsule_lightning.errors import InputError, first_line, require

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: dict[str, tuple[int, str]] = {
    "sagittal": (0, "from left to right; top is superior, left in the picture is anterior"),
    "coronal": (1, "from posterior to anterior; top is superior, left in the picture is the right of the body"),
    "axial": (2, "from inferior to superior; top is anterior, left in the picture is the right of the body"),
}
"""For each plane the axis of a volume in the order right, anterior, superior, and how its slices are shown."""
ENDINGS = (".nii", ".nii.gz")
MOST_VOXELS = 2**28
"""As many as in 1,024 slices of 512x512."""
_MOST_BEFORE = 2**20  # bytes of the header with its extensions


class Volume(NamedTuple):
    """What the header of a file states.

    Attributes:
        path: the file.
        shape: of the turned volume: right, anterior, superior.
        affine: ``(4, 4)``, from voxels as they are in the file to millimeters.
        is_oriented: whether the file says how the body lies in it; otherwise it is taken as the format's standard.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: np.ndarray
    is_oriented: bool

    def slices(self, plane: Plane) -> int:
        """Return the number of slices."""
        return self.shape[PLANES[plane][0]]

    def slice_shape(self, plane: Plane) -> tuple[int, int]:
        """Return rows and columns of a slice."""
        columns, rows = (length for axis, length in enumerate(self.shape) if axis != PLANES[plane][0])
        return rows, columns

    @property
    def voxel_size(self) -> float:
        """Of a voxel, in cubic millimeters."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))


def read_header(path: Path, most: int = MOST_VOXELS) -> Volume:
    """Return what the header of a file states.

    Args:
        path: the file.
        most: voxels that it may have.

    Raises:
        InputError: nibabel is not installed, or the file is no NIfTI file of one volume of plain numbers.
    """
    nibabel = library(path)
    header, _ = _header(path, most)
    affine = header.get_best_affine()
    try:
        codes = nibabel.orientations.io_orientation(affine)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise InputError(f"{path}: sform/qform: {first_line(error)}; expected an orientation of the volume") from error
    require(
        np.isfinite(affine).all() and not np.isnan(codes).any(),
        f"{path}: sform/qform: the matrix of the orientation is not one; write the file anew with a valid one",
    )
    lengths = header.get_data_shape()[:3]
    turned = [0, 0, 0]
    for axis, (to, _) in enumerate(codes[:3]):
        turned[int(to)] = int(lengths[axis])
    return Volume(path, (turned[0], turned[1], turned[2]), affine, bool(header["sform_code"] or header["qform_code"]))


def read_slices(path: Path, plane: Plane, most: int = MOST_VOXELS, whole_numbers: bool = False) -> np.ndarray:
    """Return the slices of a volume.

    Args:
        path: the file.
        plane: of the slices.
        most: voxels that it may have.
        whole_numbers: refuse other values, as those of a mask.

    Returns:
        ``(slices, rows, columns)``, see `PLANES`; float32, or int32 of ``whole_numbers``.

    Raises:
        InputError: as for `read_header`; the file is cut short, or has values that are no numbers or not whole.
    """
    nibabel = library(path)
    header, stated = _header(path, most)
    try:
        with _opened(path) as file:
            content = file.read(stated)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); replace it") from error
    require(len(content) == stated, f"{path}: ends after {len(content):,} of {stated:,} bytes; replace it")
    made = nibabel.Nifti1Image if header.sizeof_hdr == 348 else nibabel.Nifti2Image
    try:
        with _quiet(nibabel):
            image = nibabel.as_closest_canonical(made.from_bytes(content))
        values = np.asarray(image.dataobj)
    except Exception as error:  # nibabel raises anything for a broken file
        raise InputError(f"{path}: cannot be read as NIfTI ({first_line(error)}); replace it") from error
    values = values.reshape(values.shape[:3])
    require(
        values.dtype.kind != "f" or np.isfinite(values).all(),
        f"{path}: has voxels that are no number (NaN or infinite); replace them",
    )
    if whole_numbers:
        least, largest = values.min(), values.max()
        good = least >= -(2**31) and largest < 2**31 and (values == np.rint(values)).all()
        require(good, f"{path}: a mask with values from {least:g} to {largest:g}, not all of them whole numbers")
    axis = PLANES[plane][0]
    # superior, or anterior, comes first in a slice, and so does the right of the body, or what is anterior
    laid = np.moveaxis(values, axis, 0)[:, ::-1, ::-1].swapaxes(1, 2)
    return np.ascontiguousarray(laid, dtype=np.int32 if whole_numbers else np.float32)


def mask_file(volume: Volume, slices: np.ndarray, plane: Plane, most: int = MOST_VOXELS) -> bytes:
    """Return a mask as the content of a NIfTI file that has the geometry of a volume, and is packed if that is.

    Args:
        volume: of which it is the mask.
        slices: ``(slices, rows, columns)`` of whole numbers, see `PLANES`.
        plane: of the slices.
        most: voxels that the volume may have.

    Raises:
        InputError: the volume cannot be read any more.
    """
    nibabel = library(volume.path)
    header, _ = _header(volume.path, most)
    turned = np.moveaxis(slices.swapaxes(1, 2)[:, ::-1, ::-1], 0, PLANES[plane][0])  # right, anterior, superior
    canonical = nibabel.orientations.io_orientation(np.eye(4))
    back = nibabel.orientations.ornt_transform(canonical, nibabel.orientations.io_orientation(volume.affine))
    mask = nibabel.orientations.apply_orientation(turned, back).reshape(header.get_data_shape())
    header.set_data_dtype(mask.dtype)
    header.set_slope_inter(1, 0)
    for name in ("cal_min", "cal_max"):  # of the volume's values
        header[name] = 0
    made = nibabel.Nifti1Image if header.sizeof_hdr == 348 else nibabel.Nifti2Image
    content: bytes = made(mask, header.get_best_affine(), header).to_bytes()
    return gzip.compress(content, mtime=0) if volume.path.name.endswith(".gz") else content


def library(path: Path) -> Any:
    """Return what reads NIfTI files.

    Raises:
        InputError: it is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise InputError(
            f'{path}: is a NIfTI file, which nibabel reads; install it: pip install "capsule_lightning[nifti]"'
        ) from error
    return nibabel


@contextmanager
def _quiet(nibabel: Any) -> Iterator[None]:
    """Silence what nibabel says of a header that it mends, which names no file."""
    logger = nibabel.imageglobals.logger
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, which is unpacked while it is read if it is packed."""
    with open_regular(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield file


def _header(path: Path, most: int) -> tuple[Any, int]:
    """Return the header of a file, and how many bytes header and voxels take."""
    nibabel = library(path)
    try:
        with _opened(path) as file:
            start = file.read(540)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); expected a NIfTI file") from error
    size = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    kind = next((kind for kind in (348, 540) if kind in size and len(start) >= kind), None)
    if kind is None:
        raise InputError(f"{path}: is not a NIfTI file: sizeof_hdr is neither 348 nor 540")
    made = nibabel.Nifti1Header if kind == 348 else nibabel.Nifti2Header
    try:
        with _quiet(nibabel):
            header = made(start[:kind], check=True)
        shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header["vox_offset"])
    except Exception as error:  # nibabel raises anything for a broken header
        raise InputError(f"{path}: its header cannot be read ({first_line(error)}); replace it") from error
    require(
        bytes(header["magic"].item()).rstrip(b"\x00\r\n\x1a") in (b"n+1", b"n+2"),
        f"{path}: magic: its voxels are in another file; expected header and voxels in one, .nii or .nii.gz",
    )
    require(
        len(shape) == 3 or (len(shape) > 3 and prod(shape[3:]) == 1),
        f"{path}: dim={tuple(shape)}: expected three axes, one volume; split it into volumes",
    )
    require(min(shape) >= 1, f"{path}: dim={tuple(shape)}: expected at least 1 each")
    require(
        prod(shape) <= most,
        f"{path}: dim={tuple(shape)}: {prod(shape):,} voxels, more than {most:,}; raise --data.max_voxels",
    )
    require(
        dtype.kind in "iuf" and dtype.itemsize <= 8,
        f"{path}: datatype={dtype}: expected plain numbers of at most 64 bits",
    )
    require(0 <= offset <= _MOST_BEFORE, f"{path}: vox_offset={offset:,}: expected at most {_MOST_BEFORE:,}")
    offset = max(offset, kind + 4)
    return header, offset + prod(shape) * dtype.itemsize
