"""Prepared sets: nothing that a file says of itself is believed before it is compared."""

import json
import os
import struct

import numpy as np
import pytest
import torch

from capsule_lightning.data import prepared
from capsule_lightning.data.mnist import MNISTDataModule
from capsule_lightning.data.prepared import Images
from capsule_lightning.errors import InputError

IMAGES = torch.arange(6 * 4, dtype=torch.uint8).view(6, 1, 2, 2)


@pytest.fixture
def stored(tmp_path):
    assert prepared.save(tmp_path / "set", Images(IMAGES, torch.arange(6)), "mark", {"met": [1]})
    return tmp_path / "set"


def header(shape, dtype, version=1):
    """A NumPy file of a header alone."""
    words = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    words += b" " * (63 - (len(words) + 10) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(words)) + words


def test_what_is_saved_is_loaded(stored):
    found = prepared.load(stored, "mark")
    assert torch.equal(found.images, IMAGES)
    assert found.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert prepared.source(stored) == {"fingerprint": "mark", "met": [1]}
    assert prepared.load(stored, "another") is None
    assert prepared.load(stored.parent / "nothing") is None


@pytest.mark.parametrize("dtype", ["<i2", ">i8", "|u1"])
def test_whole_numbers_of_any_kind_are_labels(stored, dtype):
    np.save(stored / "labels.npy", np.arange(6).astype(dtype))
    assert prepared.load(stored).labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_several_numbers_are_read_if_they_are_expected(stored):
    np.save(stored / "labels.npy", np.arange(12).reshape(6, 2))
    assert prepared.load(stored, columns=2).labels.shape == (6, 2)
    with pytest.raises(InputError, match=r"holds \(6, 2\) int64, expected \(6,\)"):
        prepared.load(stored)


BAD_LABELS = {
    "bool": np.arange(6) % 2 == 0,
    "column": np.arange(6).reshape(6, 1),
    "row": np.arange(6).reshape(1, 6),
    "float": np.arange(6.0),
    "complex": np.arange(6) * 1j,
    "text": np.array(["0"] * 6),
    "dates": np.arange(6).astype("datetime64[s]"),
    "fields": np.zeros(6, dtype=[("a", "<i8")]),
    "scalar": np.int64(6),
    "fewer": np.arange(5),
    "none": np.arange(0),
}


@pytest.mark.parametrize("labels", BAD_LABELS.values(), ids=BAD_LABELS)
def test_labels_that_are_no_column_of_whole_numbers_are_refused(stored, labels):
    np.save(stored / "labels.npy", labels)
    with pytest.raises(InputError, match=r"the prepared set is damaged \(labels\.npy .*; remove this folder"):
        prepared.load(stored)


BAD_IMAGES = {
    "double": IMAGES.double().numpy(),
    "flat": IMAGES.flatten(1).numpy(),
    "signed": IMAGES.numpy().view(np.int8),
}


@pytest.mark.parametrize("images", BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_images_of_another_kind_are_refused(stored, images):
    np.save(stored / "images.npy", images)
    with pytest.raises(InputError, match=r"images\.npy holds"):
        prepared.load(stored)


BAD_FILES = {
    "huge": header((10**12,), "<i8"),
    "huger-than-numbers": header((2**62, 2**62), "<i8"),
    "negative": header((-6,), "<i8"),
    "objects": header((6,), "|O") + bytes(48),
    "cut": header((6,), "<i8") + bytes(47),
    "longer": header((6,), "<i8") + bytes(49),
    "version": header((6,), "<i8", version=9),
    "deep": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"[" * 9000,
    "long-header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 100,
    "call": b"\x93NUMPY\x01\x00" + struct.pack("<H", 20) + b"print('harm')".ljust(20),
    "empty": b"",
    "text": b"no array",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_a_header_is_not_believed(stored, name, content):
    (stored / name).write_bytes(content)
    with pytest.raises(InputError, match="the prepared set is damaged") as raised:
        prepared.load(stored)
    assert str(raised.value).isprintable()


def test_holes_in_files_are_not_read(stored):
    """Files whose headers and sizes agree on a trillion images, and that take no place on the disk."""
    count = 10**12
    for name, shape, dtype, size in (
        ("images.npy", (count, 1, 1, 1), "|u1", count),
        ("labels.npy", (count,), "|u1", count),
    ):
        (stored / name).write_bytes(header(shape, dtype))
        try:
            os.truncate(stored / name, (stored / name).stat().st_size + size)
        except OSError:
            pytest.skip("the file system knows no such files")
    with pytest.raises(InputError, match="at most 100,000,000"):
        prepared.load(stored)


SOURCES = {
    "deep": "[" * 200_000,
    "list": "[]",
    "other": "{}",
    "number": '{"fingerprint": 5}',
    "infinite": '{"fingerprint": NaN}',
    "digits": '{"fingerprint": ' + "1" * 5000 + "}",
    "bytes": b"\xff\xfe",
    "empty": "",
}


@pytest.mark.parametrize("content", SOURCES.values(), ids=SOURCES)
def test_a_damaged_statement_of_the_source_is_refused_in_one_line(stored, content):
    (stored / "source.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match="the prepared set is damaged") as raised:
        prepared.load(stored)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "source.json"])
def test_a_pipe_is_never_opened(stored, name):
    (stored / name).unlink()
    os.mkfifo(stored / name)
    if name == "source.json":
        assert prepared.load(stored) is None
    else:
        with pytest.raises(InputError, match="it is a pipe"):
            prepared.load(stored)


def test_names_of_any_kind_are_kept_beside_the_set(tmp_path):
    name = os.fsdecode(b"caf\xe9\n.png")
    prepared.save(tmp_path / "set", Images(IMAGES, torch.arange(6)), None, {"met": {name: "why"}})
    assert prepared.source(tmp_path / "set")["met"] == {name: "why"}
    json.loads((tmp_path / "set" / "source.json").read_text(encoding="ascii"))


def test_what_is_refused_is_not_kept(tmp_path, monkeypatch):
    """Original files with labels that the data set does not have; the right ones are taken when they come."""
    labels = torch.full((20,), 99)
    images = torch.zeros(20, 28, 28, dtype=torch.uint8)
    monkeypatch.setattr(MNISTDataModule, "read_original", lambda self, split, download: (images, labels))
    with pytest.raises(InputError, match="labels reach 99"):
        MNISTDataModule(str(tmp_path)).write_prepared()
    assert not (tmp_path / "prepared").exists()
    monkeypatch.setattr(MNISTDataModule, "read_original", lambda self, split, download: (images, torch.arange(20) % 10))
    MNISTDataModule(str(tmp_path)).write_prepared()
    assert MNISTDataModule(str(tmp_path)).load("train").labels.max() == 9
