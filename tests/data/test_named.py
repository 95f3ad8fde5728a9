"""Data sets known by name: their file formats, the four places in order, the prepared copy, and what is missing."""

import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from torch.testing import assert_close

from capsule_lightning.data import decoded_trees
from capsule_lightning.data.base import channel_statistics
from capsule_lightning.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from capsule_lightning.data.loader import MemoryStore
from capsule_lightning.data.mnist import FashionMNISTDataModule, MNISTDataModule
from capsule_lightning.data.svhn import SVHNDataModule
from capsule_lightning.errors import InputError

REAL_ROOT = os.environ.get("CAPSULE_LIGHTNING_DATA", "")


def write_idx(path, array):
    """The format of MNIST: zero, zero, type, number of dimensions, the dimensions big-endian, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def write_mnist(root, sets, folder="MNIST"):
    for prefix, (images, labels) in zip(("train", "t10k"), sets, strict=True):
        write_idx(root / folder / "raw" / f"{prefix}-images-idx3-ubyte", images[..., 0])
        write_idx(root / folder / "raw" / f"{prefix}-labels-idx1-ubyte", labels)


def write_fashion_mnist(root, sets):
    write_mnist(root, sets, "FashionMNIST")


def write_pickles(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))


def cifar_batch(images, labels, key):
    return {"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1), key: labels.tolist()}


def write_cifar10(root, sets):
    (images, labels), test = sets
    parts = zip(np.array_split(images, 5), np.array_split(labels, 5), strict=True)
    files = {f"data_batch_{number}": cifar_batch(*part, "labels") for number, part in enumerate(parts, start=1)}
    files |= {"test_batch": cifar_batch(*test, "labels"), "batches.meta": {"label_names": []}}
    write_pickles(root / "cifar-10-batches-py", files)


def write_cifar100(root, sets):
    files = {name: cifar_batch(*part, "fine_labels") for name, part in zip(("train", "test"), sets, strict=True)}
    write_pickles(root / "cifar-100-python", files | {"meta": {"fine_label_names": []}})


def write_svhn(root, sets):
    root.mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in zip(("train", "test"), sets, strict=True):
        ten_for_zero = np.where(labels == 0, 10, labels)[:, None]
        scipy.io.savemat(root / f"{name}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": ten_for_zero})


ORIGINAL = {
    MNISTDataModule: write_mnist,
    FashionMNISTDataModule: write_fashion_mnist,
    CIFAR10DataModule: write_cifar10,
    CIFAR100DataModule: write_cifar100,
    SVHNDataModule: write_svhn,
}


def make_sets(data, value=None):
    """Images, channels last, and labels of a small training set and a smaller test set; noise or all of one value."""
    random = np.random.default_rng(0)
    channels, *size = data.stored_shape
    for count in (20, 10):
        images = random.integers(0, 256, (count, *size, channels), dtype=np.uint8)
        labels = random.integers(0, len(data.class_names), count, dtype=np.uint8)
        yield images if value is None else np.full_like(images, value), labels


@pytest.fixture(autouse=True)
def accept_small_files(monkeypatch):
    """Torchvision knows the checksums of the complete files."""
    for module in ("mnist", "cifar", "svhn"):
        exists = lambda path, md5=None: Path(path).is_file()  # noqa: E731
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", exists)


@pytest.mark.parametrize("data", ORIGINAL, ids=lambda data: data.name)
def test_original_files_are_read_exactly(tmp_path, data):
    sets = list(make_sets(data))
    ORIGINAL[data](tmp_path, sets)
    module = data(str(tmp_path), download=False)
    module.prepare_data()
    for split, (images, labels) in zip(("train", "test"), sets, strict=True):
        stored = module.load(split)
        np.testing.assert_array_equal(stored.images.movedim(1, -1).numpy(), images)
        np.testing.assert_array_equal(stored.labels.numpy(), labels.astype(np.int64), strict=True)


@pytest.mark.parametrize("data", [MNISTDataModule, CIFAR10DataModule], ids=lambda data: data.name)
def test_places_are_looked_at_in_order(tmp_path, monkeypatch, write_tree, data):
    def found(**options):
        module = data(str(tmp_path), **options)
        module.prepare_data()
        images = module.load("train").images
        assert images.shape[1:] == data.stored_shape
        assert images.min() == images.max()
        return int(images.max())

    channels, *size = data.stored_shape
    shape = (*size, 3) if channels == 3 else tuple(size)
    for split in ("train", "test"):
        write_tree(tmp_path / data.name / split, data.class_names, shape=shape, value=1)
    assert found() == 1  # class folders
    ORIGINAL[data](tmp_path, make_sets(data, value=2))
    assert found() == 1  # the prepared file made of them
    shutil.rmtree(tmp_path / "prepared")
    assert found() == 2  # the original files
    shutil.rmtree(tmp_path / {"mnist": "MNIST", "cifar10": "cifar-10-batches-py"}[data.name])
    assert found() == 1  # class folders again
    shutil.rmtree(tmp_path)

    origin = f"torchvision.datasets.{data.__name__.removesuffix('DataModule')}"
    monkeypatch.setattr(f"{origin}.download", lambda self: ORIGINAL[data](Path(self.root), make_sets(data, value=3)))
    with pytest.raises(InputError, match="a download"):
        found(download=False)
    assert found() == 3  # a download


def test_class_folders_are_read_in_the_order_of_the_classes(tmp_path, write_tree):
    pixels = write_tree(tmp_path / "cifar10" / "train", CIFAR10DataModule.class_names, shape=(32, 32, 3))
    stored = CIFAR10DataModule(str(tmp_path)).load("train")
    np.testing.assert_array_equal(stored.images.movedim(1, -1).numpy(), pixels)
    assert stored.labels.tolist() == [label for label in range(10) for _ in range(2)]


def test_class_folders_of_another_size_are_refused(tmp_path, write_tree):
    write_tree(tmp_path / "mnist" / "train", "0123456789", shape=(32, 32))
    with pytest.raises(InputError, match=r"0/0\.png: 32x32 pixels; expected 28x28"):
        MNISTDataModule(str(tmp_path)).load("train")


@pytest.fixture
def tree(tmp_path, write_tree):
    for split in ("train", "test"):
        write_tree(tmp_path / "mnist" / split, "0123456789", shape=(28, 28))
    return tmp_path


def no_decoding(*args, **kwargs):
    raise AssertionError("image files were read again")


def test_the_second_load_takes_the_prepared_copy(tree, monkeypatch):
    first = MNISTDataModule(str(tree)).load("train")
    monkeypatch.setattr(decoded_trees, "read_files", no_decoding)
    second = MNISTDataModule(str(tree)).load("train")
    assert_close(second.images, first.images)
    assert_close(second.labels, first.labels)


def test_the_prepared_copy_stays_valid_elsewhere(tree, monkeypatch):
    MNISTDataModule(str(tree)).load("train")
    monkeypatch.setattr(decoded_trees, "read_files", no_decoding)
    monkeypatch.chdir(tree)
    MNISTDataModule(".").load("train")
    shutil.rmtree(tree / "mnist")
    MNISTDataModule(str(tree)).load("train")


def test_the_prepared_copy_is_made_again_when_a_file_changes(tree, write_image, monkeypatch):
    before = MNISTDataModule(str(tree)).load("train").images
    pixels = write_image(tree / "mnist" / "train" / "3" / "1.png", (28, 28))
    write_image(tree / "mnist" / "train" / "9" / "2.png", (28, 28))
    after = MNISTDataModule(str(tree)).load("train").images
    assert len(after) == len(before) + 1
    np.testing.assert_array_equal(after[7, 0].numpy(), pixels)
    assert_close(after[8:20], before[8:])
    monkeypatch.setattr(decoded_trees, "read_files", no_decoding)
    assert_close(MNISTDataModule(str(tree)).load("train").images, after)


def test_a_root_that_cannot_be_written_is_read(tree):
    (tree / "prepared").touch()  # in the way of the folder, which stops even the superuser
    for _ in range(2):
        assert len(MNISTDataModule(str(tree)).load("train").labels) == 20
    with pytest.raises(InputError, match=r"prepared/mnist/train: cannot be written; choose another --data\.root"):
        MNISTDataModule(str(tree)).write_prepared()
    assert (tree / "prepared").is_file()


def test_write_prepared_makes_the_original_files_unnecessary(tmp_path):
    sets = list(make_sets(MNISTDataModule))
    write_mnist(tmp_path, sets)
    assert MNISTDataModule(str(tmp_path)).write_prepared() == tmp_path / "prepared" / "mnist"
    shutil.rmtree(tmp_path / "MNIST")
    for split, (images, labels) in zip(("train", "test"), sets, strict=True):
        stored = MNISTDataModule(str(tmp_path), download=False).load(split)
        np.testing.assert_array_equal(stored.images[:, 0].numpy(), images[..., 0])
        np.testing.assert_array_equal(stored.labels.numpy(), labels)
    assert sorted(os.listdir(tmp_path / "prepared" / "mnist")) == ["test", "train"]  # nothing half-written stays


def test_an_incomplete_tree_does_not_hide_the_original_files(tmp_path, write_tree):
    write_tree(tmp_path / "mnist" / "train", "012", shape=(28, 28))
    with pytest.raises(InputError, match="differing: 3, 4, 5, 6, 7, 8, 9"):
        MNISTDataModule(str(tmp_path)).load("train")
    write_mnist(tmp_path, make_sets(MNISTDataModule, value=2))
    assert MNISTDataModule(str(tmp_path)).load("train").images.min() == 2


@pytest.mark.parametrize("length", [0, 10, 500])
def test_original_files_cut_short_are_told(tmp_path, length):
    write_mnist(tmp_path, make_sets(MNISTDataModule))
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=rf"original files {tmp_path}: (?!Dataset not found)\w"):
        MNISTDataModule(str(tmp_path)).prepare_data()


@pytest.mark.parametrize("data", ORIGINAL, ids=lambda data: data.name)
@pytest.mark.parametrize("download", [True, False])
def test_nothing_there_names_the_four_places_and_the_remedy(tmp_path, data, download):
    with pytest.raises(InputError) as raised:
        data(str(tmp_path), download=download).prepare_data()
    places = [
        rf"1\. a prepared file +{tmp_path}/prepared/{data.name}/train",
        rf"2\. the original files +{tmp_path}: Dataset not found",
        rf"3\. class folders +{tmp_path}/{data.name}/train/<class>/\*",
        rf"4\. a download +{'failed: .*no network' if download else 'is off: set --data.download true'}",
    ]
    raised.match(rf"(?s)the train images of {data.name} were not found.*{'.*'.join(places)}.*--config digits\.yaml")


def test_the_root_is_the_argument_else_the_variable_else_data(monkeypatch):
    monkeypatch.setenv("CAPSULE_LIGHTNING_DATA", "variable")
    monkeypatch.setenv("HOME", "/home/someone")
    assert MNISTDataModule("argument").root == Path("argument")
    assert MNISTDataModule("~/argument").root == Path("/home/someone/argument")
    assert MNISTDataModule().root == Path("variable")
    monkeypatch.delenv("CAPSULE_LIGHTNING_DATA")
    assert MNISTDataModule().root == Path("data")


@pytest.mark.slow
@pytest.mark.skipif(not (Path(REAL_ROOT) / "MNIST" / "raw").is_dir(), reason="CAPSULE_LIGHTNING_DATA holds no MNIST")
def test_real_mnist_has_its_known_size_and_statistics():
    data = MNISTDataModule(REAL_ROOT, download=False)
    train, test = data.load("train"), data.load("test")
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    measured = [round(value, 4) for (value,) in channel_statistics(MemoryStore(*train))]
    assert measured == [0.1307, 0.3081] == [value for (value,) in data.statistics]
