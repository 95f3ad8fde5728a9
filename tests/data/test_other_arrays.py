"""Arrays in MATLAB and HDF5 files: the same images as in NumPy's, and nothing that a file does beyond holding them."""

import struct
import zlib

import numpy as np
import pytest
import torch
from scipy.io import savemat

from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data import named_arrays
from capsule_lightning.data.array_pictures import find_array_pictures
from capsule_lightning.data.image_arrays import ImageArrayDataModule
from capsule_lightning.data.matlab_arrays import matlab_arrays
from capsule_lightning.data.pictures import Reading
from capsule_lightning.errors import InputError

h5py = pytest.importorskip("h5py")

GRAY = np.random.default_rng(0).integers(0, 256, (40, 6, 7), dtype=np.uint8)
COLOR = np.random.default_rng(1).integers(0, 256, (40, 6, 7, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4
WORDS = np.array(["ant", "bee", "cat", "dog"])[LABELS]


def data_of(path, **options):
    return ImageArrayDataModule(
        str(path), **{"augmentation": NoAugmentation, "batch_size": 4, "val_size": 4, "test_size": 8, **options}
    )


def whole(data):
    """All images and labels, in an order that does not depend on the file."""
    parts = [data.load(split) for split in ("train", "test")]
    images, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    return images, [data.class_names[label] for label in labels.tolist()]


def as_numpy(tmp_path, images, labels):
    np.savez(tmp_path / "same.npz", images=images, labels=labels)
    return whole(data_of(tmp_path / "same.npz"))


def save_hdf5(path, images, labels, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, **options)
        file["labels"] = labels


def save_matlab_7(path, **arrays):
    """Write what MATLAB writes with -v7.3: HDF5 after a header, dimensions in the opposite order, a class for each."""
    kinds = {"u1": b"uint8", "f8": b"double", "b1": b"logical"}
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            values = array.astype(np.uint8) if array.dtype == bool else array
            file[name] = values.T
            file[name].attrs["MATLAB_class"] = np.bytes_(kinds[array.dtype.str[1:]])
        file.create_group("#refs#")["a"] = np.zeros(3)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + b" " * 8 + struct.pack("<H2s", 0x0200, b"IM"))


def assert_same(found, expected):
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


@pytest.mark.parametrize("images", [GRAY, COLOR, GRAY / 100, GRAY > 99], ids=["gray", "color", "double", "logical"])
@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_matlab_files_are_read(tmp_path, images, last, packed):
    turned = np.moveaxis(images, 0, -1) if last else images
    labels = LABELS[None] + 1.0 if last else LABELS[:, None] + 1.0  # of MATLAB's own type
    savemat(tmp_path / "a.mat", {"images": turned, "labels": labels, "info": {"a": 1}}, do_compression=packed)
    assert_same(whole(data_of(tmp_path / "a.mat")), as_numpy(tmp_path, images, LABELS + 1))


@pytest.mark.parametrize("images", [GRAY, COLOR, GRAY / 100, GRAY > 99], ids=["gray", "color", "double", "logical"])
@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
def test_matlab_files_of_version_7_3_are_read(tmp_path, monkeypatch, images, last):
    monkeypatch.setattr(named_arrays, "_SLICE", 3 * images[0].nbytes)  # three images at a time
    turned = np.moveaxis(images, 0, -1) if last else images
    save_matlab_7(tmp_path / "a.mat", images=turned, labels=LABELS[None] + 1.0)
    assert_same(whole(data_of(tmp_path / "a.mat")), as_numpy(tmp_path, images, LABELS + 1))


def test_dimensions_of_matlab_that_could_be_either_are_refused(tmp_path):
    savemat(tmp_path / "a.mat", {"images": np.zeros((40, 6, 40)), "labels": LABELS})
    with pytest.raises(InputError, match=r"first or the last dimension of \(40, 6, 40\) numbers the images"):
        data_of(tmp_path / "a.mat")


@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip", "shuffle": True, "chunks": (4, 6, 7)}, {"compression": "lzf"}]
)
@pytest.mark.parametrize("labels", [LABELS, WORDS.astype("S"), WORDS.astype(object)], ids=["numbers", "bytes", "texts"])
def test_hdf5_files_are_read_some_rows_at_a_time(tmp_path, monkeypatch, options, labels):
    monkeypatch.setattr(named_arrays, "_SLICE", 3 * GRAY[0].nbytes)
    save_hdf5(tmp_path / "a.h5", GRAY, labels, **options)
    expected = LABELS if labels is LABELS else WORDS
    assert_same(whole(data_of(tmp_path / "a.h5")), as_numpy(tmp_path, GRAY, expected))


def test_groups_of_hdf5_are_splits(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for split, cut in {"train": slice(30), "test": slice(30, 40)}.items():
            file[f"{split}/images"], file[f"{split}/labels"] = COLOR[cut], LABELS[cut]
        file["train/again"] = file["train"]  # a circle
    data = data_of(tmp_path / "a.h5")
    assert not data.is_split_off
    assert torch.equal(data.load("test").images, torch.from_numpy(COLOR[30:]).movedim(-1, 1))


@pytest.mark.parametrize("suffix", ["mat", "h5"])
def test_images_in_them_are_predicted(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "mat":
        savemat(path, {"X": np.moveaxis(COLOR, 0, -1)})
    else:
        save_hdf5(path, COLOR, LABELS)
    expected = torch.from_numpy(COLOR).movedim(-1, 1)
    assert torch.equal(find_array_pictures(path, (3, 6, 7), Reading()).read(), expected)


# What a file could do beyond holding arrays.


def linked(file, tmp_path):
    save_hdf5(tmp_path / "secret.h5", GRAY, LABELS)
    file["images"] = h5py.ExternalLink("secret.h5", "/images")


def virtual(file, tmp_path):
    save_hdf5(tmp_path / "secret.h5", GRAY, LABELS)
    layout = h5py.VirtualLayout(GRAY.shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "images", GRAY.shape)
    file.create_virtual_dataset("images", layout)


def external(file, tmp_path):
    (tmp_path / "secret.bin").write_bytes(GRAY.tobytes())
    file.create_dataset("images", GRAY.shape, np.uint8, external=[(str(tmp_path / "secret.bin"), 0, GRAY.nbytes)])


def plugin(file, tmp_path):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk(GRAY.shape)
    plan.set_filter(305, h5py.h5z.FLAG_OPTIONAL)  # LZO, of which there is only a plugin
    space, kind = h5py.h5s.create_simple(GRAY.shape), h5py.h5t.NATIVE_UINT8
    h5py.h5d.create(file.id, b"images", kind, space, plan)


def claims(file, tmp_path):
    file.create_dataset("images", (40, 10**5, 10**5), np.uint8, chunks=(1, 100, 100))  # not a byte of it is there


def references(file, tmp_path):
    file.create_dataset("images", (40, 6, 7), h5py.ref_dtype)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (linked, "expected train_images"),
        (virtual, "is in other files, which are not followed"),
        (external, "is in other files, which are not followed"),
        (plugin, r"packed by filter 305, which needs a plugin; expected gzip"),
        (claims, r"0 bytes that would unpack to 400,000,000,000"),
        (references, "expected train_images"),
    ],
)
def test_a_file_leads_nowhere_and_claims_nothing(tmp_path, make, named):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["labels"] = LABELS
        make(file, tmp_path)
    with pytest.raises(InputError, match=named) as raised:
        data_of(tmp_path / "a.h5")
    assert str(raised.value).isprintable()


def test_a_part_of_a_matlab_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(named_arrays, "MOST_UNPACKED", 2**16)
    savemat(tmp_path / "a.mat", {"images": np.zeros((40, 60, 60)), "labels": LABELS}, do_compression=True)
    with pytest.raises(InputError, match=r"would unpack to more than .*at most 100 times as many"):
        data_of(tmp_path / "a.mat")


def test_what_is_no_number_in_a_matlab_file_is_no_array(tmp_path):
    savemat(tmp_path / "a.mat", {"images": np.array([{"a": 1}] * 40, dtype=object), "labels": LABELS})
    with pytest.raises(InputError, match="there are 'labels'"):
        data_of(tmp_path / "a.mat")


@pytest.mark.parametrize("suffix", ["mat", "h5"])
@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
def test_a_torn_file_is_named(tmp_path, suffix, left):
    path = tmp_path / f"a.{suffix}"
    if suffix == "mat":
        savemat(path, {"labels": LABELS, "images": COLOR}, do_compression=True)
    else:
        save_hdf5(path, COLOR, LABELS)
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    with pytest.raises(InputError, match=rf"a\.{suffix}") as raised:
        data_of(path).setup()
    assert str(raised.value).isprintable()


def test_packed_parts_that_are_no_streams_are_named(tmp_path):
    savemat(tmp_path / "a.mat", {"images": COLOR, "labels": LABELS}, do_compression=True)
    content = bytearray((tmp_path / "a.mat").read_bytes())
    assert zlib.decompressobj().decompress(bytes(content[136:]))  # the first part begins after its tag
    content[140] ^= 255
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.mat: cannot be read"):
        data_of(tmp_path / "a.mat").setup()


def element(kind, content, order="<"):
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def variable(name, kind, shape, content, order="<", flags=0):
    """A variable of a MATLAB file; ``content`` is its values, a data element."""
    said = element(6, struct.pack(f"{order}II", flags | kind, 0), order)
    said += element(5, struct.pack(f"{order}{len(shape)}i", *shape), order) + element(1, name, order)
    return element(14, said + content, order)


def write_matlab(path, *variables, order="<"):
    start = b"MATLAB 5.0 MAT-file".ljust(124)
    path.write_bytes(start + struct.pack(f"{order}H", 0x0100) + {"<": b"IM", ">": b"MI"}[order] + b"".join(variables))


@pytest.mark.parametrize("order", "<>")
def test_matlab_numbers_are_read_however_they_are_stored(tmp_path, order):
    values = np.asfortranarray(np.moveaxis(GRAY, 0, -1))
    labels = element(3, np.tile([1, 2], 20).astype(f"{order}i2").tobytes(), order)
    small = struct.pack(f"{order}I", 2 << 16 | 2) + bytes([7, 8, 0, 0])  # two bytes within the tag
    write_matlab(
        tmp_path / "a.mat",
        variable(b"images", 6, (6, 7, 40), element(2, values.tobytes("F"), order), order),  # doubles, stored as bytes
        variable(b"labels", 12, (1, 40), labels, order),
        variable(b"table", 17, (), element(1, b"MCOS", order), order),  # an object, which states no dimensions
        variable(b"", 9, (1, 2), small, order),  # what serves objects
        variable(b"waves", 6, (1, 2), small + small, order, flags=0x800),
        variable(b"two", 9, (1, 2), small, order),
        order=order,
    )
    assert_same(whole(data_of(tmp_path / "a.mat")), as_numpy(tmp_path, GRAY.astype(np.float64), LABELS % 2 + 1))
    found = matlab_arrays(tmp_path / "a.mat", 2**20, 100)
    assert {name: (each.header.shape, str(each.header.dtype)) for name, each in found.items()} == {
        "images": ((6, 7, 40), "float64"),
        "labels": ((1, 40), "int32"),
        "two": ((1, 2), "uint8"),  # complex numbers are left out
    }
    assert next(found["two"].slices(1)).tolist() == [[7, 8]]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (element(0x7FF0, bytes(40 * 42)), "holds no real numbers"),  # SciPy 1.17 does not survive such a type
        (element(2, bytes(40 * 42 - 1)), "holds 1,679 numbers, expected 1,680"),
        (element(9, bytes(40 * 42 - 1)), "buffer size must be a multiple"),
        (struct.pack("<II", 2, 2**31), "cut off"),
        (b"", "holds no real numbers"),
    ],
)
def test_matlab_numbers_that_are_not_there_are_named(tmp_path, content, named):
    labels = variable(b"labels", 12, (1, 40), element(5, LABELS.astype("<i4").tobytes()))
    write_matlab(tmp_path / "a.mat", variable(b"images", 9, (6, 7, 40), content), labels)
    with pytest.raises(InputError, match=rf"a\.mat: .*{named}"):
        data_of(tmp_path / "a.mat").setup()


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_matlab_classes_are_those_of_scipy(tmp_path, kind, packed):
    values = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(kind)
    savemat(
        tmp_path / "a.mat", {"one": values, "text": "ab", "cell": np.array([1, "x"], object)}, do_compression=packed
    )
    (found,) = matlab_arrays(tmp_path / "a.mat", 2**20, 100).values()
    read = np.concatenate([*found.slices(2)])
    assert (read.dtype, read.tolist()) == (values.dtype, values.tolist())
