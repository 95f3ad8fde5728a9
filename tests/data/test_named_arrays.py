"""Files of arrays from anywhere: what is damaged or lies is refused in one line, before memory is taken."""

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from capsule_lightning.data import named_arrays
from capsule_lightning.data.image_arrays import ImageArrayDataModule
from capsule_lightning.errors import InputError

GRAY = np.random.default_rng(0).integers(0, 256, (40, 6, 7), dtype=np.uint8)
LABELS = np.arange(40) % 4


def archive(**members):
    """An archive of members of these bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, each in members.items():
            file.writestr(f"{name}.npy", each)
    return content.getvalue()


def npy(array, shape=None):
    """The bytes of a NumPy file, whose header may speak of another shape."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    )
    return content.getvalue() + array.tobytes()


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


WHOLE = archive(images=npy(GRAY), labels=npy(LABELS))
FILES = {
    "nothing": (b"", "is no file of NumPy, or cut short"),
    "torn": (WHOLE[:-200], "pictures.npz: cannot be read"),
    "bit": (flipped(WHOLE, 900), "pictures.npz: cannot be read"),
    "text": (b"images, labels", "is no file of NumPy"),
    "array": (npy(GRAY), "there are one array without a name"),
    "no-arrays": (archive(), "holds no arrays"),
    "claims": (archive(images=npy(GRAY, (10**9, 6, 7)), labels=npy(LABELS)), "its header speaks of 42,000,000,000"),
    "no-array": (archive(images=b"hello, this is no array", labels=npy(LABELS)), "cannot be read"),
    "matlab": (b"MATLAB 5.0 MAT-file", "pictures.npz: cannot be read"),
    "matlab-4": (b"\0" * 20 + b"images\0", "is no file of NumPy"),
    "hdf": (b"\x89HDF\r\n\x1a\n", "pictures.npz: (cannot be read|is an HDF5 file, which h5py reads; install it)"),
}


@pytest.mark.parametrize(("content", "named"), FILES.values(), ids=FILES)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path, content, named):
    (tmp_path / "pictures.npz").write_bytes(content)
    with pytest.raises(InputError, match=named) as raised:
        ImageArrayDataModule(str(tmp_path / "pictures.npz"), batch_size=4).setup()
    assert str(raised.value).isprintable()


def test_words_that_are_no_characters_are_refused(tmp_path):
    content = archive(images=npy(GRAY), labels=npy(np.full(40, 2**31, np.uint32)).replace(b"<u4", b"<U1"))
    (tmp_path / "pictures.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"pictures\.npz: cannot be read"):
        ImageArrayDataModule(str(tmp_path / "pictures.npz"))


def test_an_archive_that_would_fill_the_memory_is_refused_before_anything_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(named_arrays, "MOST_UNPACKED", 2**16)
    path = tmp_path / "pictures.npz"
    path.write_bytes(archive(images=npy(np.zeros((40, 600, 700), np.uint8)), labels=npy(LABELS)))
    with pytest.raises(InputError, match=r"would unpack to 16,800,\d+; expected at most 100 times"):
        ImageArrayDataModule(str(path))


def test_an_archive_that_lies_about_its_size_is_not_believed(tmp_path):
    content = bytearray(archive(images=npy(GRAY), labels=npy(LABELS)))
    entry = content.index(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**32 - 2)  # packed and unpacked bytes of the first
    (tmp_path / "pictures.npz").write_bytes(content)
    with pytest.raises(InputError, match="would unpack to 4,294,967,294"):
        ImageArrayDataModule(str(tmp_path / "pictures.npz"))


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (None, r"set --data\.path"),
        ("", r"set --data\.path"),
        ("nowhere.npz", r"nowhere\.npz: no such file or folder; expected an \.npz, \.mat or HDF5 file"),
        ("folder", r"folder: no \.npy file in this folder; .*image_folder\.yaml"),
        ("pipe", r"pipe: is not a file \(pipe\)"),
        ("nul\0", "embedded null"),
        ("a" * 300, "file name too long"),
    ],
    ids=ascii,
)
def test_a_path_that_leads_nowhere_is_refused(tmp_path, monkeypatch, path, named):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    os.mkfifo("pipe")
    with pytest.raises(InputError, match=named) as raised:
        ImageArrayDataModule(path)
    assert str(raised.value).isprintable()
