"""affNIST: digits that stand upright, whole and in every place, two test sets, and every fault named."""

import os
import shutil
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import yaml
from torch.testing import assert_close

from capsule_lightning.data import affnist
from capsule_lightning.data.affnist import URL, AffNISTDataModule
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.shipped import CONFIG_DIR

REAL_ROOT = os.environ.get("CAPSULE_LIGHTNING_DATA", "")
COUNT = 30
random = np.random.default_rng(0)
PICTURES = random.integers(0, 256, (COUNT, 40, 40), dtype=np.uint8)
LABELS = random.integers(0, 10, COUNT)


def write_mat(path, pictures=PICTURES, labels=LABELS, image="image", **options):
    """The struct of the original file: a picture a column, row after row, and the labels in two ways."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.stack([np.concatenate(list(picture)) for picture in pictures], axis=1)
    data = {
        "affine_transform": np.zeros((6, len(labels))),
        "human_readable_transform": np.zeros((6, len(labels))),
        image: columns,
        "label_one_of_n": np.eye(10, dtype=np.uint8)[labels].T,
        "label_int": labels.astype(np.uint8)[None],
    }
    scipy.io.savemat(path, {"affNISTdata": data}, **options)


def zipped(path):
    with zipfile.ZipFile(f"{path}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, path.name)
    path.unlink()


@pytest.fixture(autouse=True)
def accept_small_files(monkeypatch):
    monkeypatch.setattr(affnist, "TEST_COUNT", COUNT)


@pytest.fixture
def digits(tmp_path, write_tree):
    """MNIST, noise of 10 training and 5 test digits a class; the pixels of both in the order of the classes."""
    return {
        split: write_tree(tmp_path / "mnist" / split, "0123456789", count=count, shape=(28, 28))
        for split, count in (("train", 10), ("test", 5))
    }


@pytest.fixture
def root(tmp_path, digits):
    write_mat(tmp_path / "affnist" / "test.mat")
    return tmp_path


def make(root, **options):
    return AffNISTDataModule(str(root), **{"batch_size": 10, "download": False, **options})


def ready(root, stage, **options):
    data = make(root, **options)
    data.prepare_data()
    data.setup(stage)
    return data


def seen(data, loader):
    """Every picture of a loader as the network gets it, and its label."""
    batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]
    images = torch.cat([batch.images for batch in batches])[:, 0] * 255
    return images.round().numpy().astype(np.uint8), torch.cat([batch.labels for batch in batches]).tolist()


def cut_out(picture):
    """The digit of noise on a black canvas, and where its corner is."""
    rows, columns = (picture.any(axis=axis).nonzero()[0] for axis in (1, 0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], (int(rows[0]), int(columns[0]))


def number(digit, digits):
    """Which of the digits this is; the test fails where it is none, or cut."""
    (found,) = (n for n, other in enumerate(digits) if np.array_equal(digit, other))
    return found


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
def test_test_pictures_stand_upright(root, packed, compressed):
    path = root / "affnist" / "test.mat"
    write_mat(path, do_compression=compressed)
    if packed:
        zipped(path)
    stored = ready(root, "test").load("test")
    np.testing.assert_array_equal(stored.images[:, 0].numpy(), PICTURES)
    np.testing.assert_array_equal(stored.labels.numpy(), LABELS, strict=True)


def test_training_digits_lie_whole_in_the_middle_of_the_store(root, digits):
    stored = make(root).load("train")
    expected = np.zeros((100, 40, 40), dtype=np.uint8)
    expected[:, 6:34, 6:34] = digits["train"]
    np.testing.assert_array_equal(stored.images[:, 0].numpy(), expected)
    assert stored.labels.tolist() == [label for label in range(10) for _ in range(10)]


def test_training_digits_are_moved_anew_in_every_epoch_and_stay_whole(root, digits):
    data = ready(root, "fit", val_size=0)
    loader, corners = data.train_dataloader(), []
    for epoch in range(8):
        loader.set_epoch(epoch)
        pictures, labels = seen(data, loader)
        places = {}
        for picture, label in zip(pictures, labels, strict=True):
            digit, corner = cut_out(picture)
            n = number(digit, digits["train"])
            assert label == n // 10
            places[n] = corner
        assert len(places) == 100
        corners.append(places)
    for axis in (0, 1):
        assert {corner[axis] for places in corners for corner in places.values()} == set(range(13))
    assert all(len({places[n] for places in corners}) > 1 for n in range(100))


@pytest.mark.parametrize("augmentation", [None, lambda: affnist.Shift(0)])
def test_validation_digits_keep_their_places(root, digits, augmentation):
    data = ready(root, "fit", val_size=20, augmentation=augmentation)
    pictures, labels = seen(data, data.val_dataloader())
    np.testing.assert_array_equal(pictures, seen(data, data.val_dataloader())[0])
    np.testing.assert_array_equal(pictures, seen(data, ready(root, "validate", val_size=20).val_dataloader())[0])
    found = [cut_out(picture) for picture in pictures]
    numbers = {number(digit, digits["train"]) for digit, _ in found}
    assert len(numbers) == 20
    assert labels == [number(digit, digits["train"]) // 10 for digit, _ in found]
    assert len({corner for _, corner in found}) > 10
    trained = {int(n) for batch in data.train_dataloader() for n in batch.indices}
    assert not trained & numbers


def test_no_validation_digits_no_loader(root):
    data = ready(root, "fit", val_size=0)
    assert data.val_dataloader() == []


def test_mnist_digits_are_tested_at_places_of_their_own_without_affnist(tmp_path, digits):
    data = ready(tmp_path, "test", test_on="mnist")
    pictures, labels = seen(data, data.test_dataloader())
    found = [cut_out(picture) for picture in pictures]
    for n, (digit, _) in enumerate(found):
        np.testing.assert_array_equal(digit, digits["test"][n])
    assert labels == [n // 5 for n in range(50)]
    assert len({corner for _, corner in found}) > 30
    again = ready(tmp_path, "test", test_on="mnist", seed=7)
    np.testing.assert_array_equal(seen(again, again.test_dataloader())[0], pictures)


def no_reading(*args, **kwargs):
    raise AssertionError("test.mat was read again")


def test_test_mat_is_read_once(root, monkeypatch):
    expected = ready(root, "test").load("test")
    monkeypatch.setattr(affnist, "read_affnist", no_reading)
    shutil.rmtree(root / "affnist")
    found = ready(root, "test").load("test")
    assert_close(found.images, expected.images)
    assert_close(found.labels, expected.labels)


def test_write_prepared_makes_all_originals_unnecessary_and_keeps_the_test_sets_apart(root):
    expected = {name: make(root, test_on=name).load("test").images for name in ("affnist", "mnist")}
    assert (len(expected["affnist"]), len(expected["mnist"])) == (COUNT, 50)
    train = make(root).load("train").images
    for name in expected:
        assert make(root, test_on=name).write_prepared() == root / "prepared" / "affnist"
    shutil.rmtree(root / "affnist")
    shutil.rmtree(root / "mnist")
    for name, images in expected.items():
        data = ready(root, "test", test_on=name)
        assert_close(data.load("test").images, images)
        assert_close(data.load("train").images, train)


def test_a_missing_test_mat_is_named_with_its_source_and_the_way_without(tmp_path, digits):
    with pytest.raises(InputError) as raised:
        make(tmp_path).prepare_data()
    raised.match(
        rf"(?s)the test images of affnist were not found.*{tmp_path}/affnist/test\.mat: no such file, nor "
        rf"test\.mat\.zip; it comes from {URL}, and --data\.test_on mnist does without it.*is off"
    )
    with pytest.raises(InputError, match=r"a download +failed: .*no network"):
        make(tmp_path, download=True).prepare_data()


def test_missing_digits_are_named_as_mnist(tmp_path):
    write_mat(tmp_path / "affnist" / "test.mat")
    for download, reason in ((False, "is off"), (True, "failed: .*no network")):
        with pytest.raises(InputError, match=rf"(?s)the train images of mnist were not found.*a download +{reason}"):
            make(tmp_path, download=download).prepare_data()


def test_a_download_fetches_test_mat(tmp_path, digits, monkeypatch):
    def download_url(url, folder):
        assert url == URL
        write_mat(Path(folder) / "test.mat")
        zipped(Path(folder) / "test.mat")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    stored = ready(tmp_path, "test", download=True).load("test")
    np.testing.assert_array_equal(stored.images[:, 0].numpy(), PICTURES)


def cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


def text(path):
    path.write_text("<html>404</html>")


def empty_archive(path):
    path.unlink()
    zipfile.ZipFile(f"{path}.zip", "w").close()


def cut_archive(path):
    zipped(path)
    cut(path.with_name("test.mat.zip"))


def another_variable(path):
    scipy.io.savemat(path, {"X": PICTURES})


def another_field(path):
    write_mat(path, image="picture")


CENTERED = rf"image \(1600, 10\) uint8 and 10 labels, expected \(1600, {COUNT}\) uint8: test\.mat of .*`transformed`"


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (cut, r"test\.mat: cannot be read as affNIST's MATLAB file; remove it and fetch it again"),
        (text, r"test\.mat: cannot be read as affNIST's MATLAB file"),
        (empty_archive, r"test\.mat\.zip: cannot be read as affNIST's MATLAB file"),
        (cut_archive, r"test\.mat\.zip: cannot be read as affNIST's MATLAB file"),
        (another_variable, r"test\.mat: cannot be read .*there is no struct affNISTdata"),
        (another_field, r"test\.mat: cannot be read .*has no field image, but affine_transform"),
        (partial(write_mat, pictures=PICTURES[:10], labels=LABELS[:10]), rf"test\.mat: {CENTERED}"),
        (partial(write_mat, labels=LABELS[:10]), r"test\.mat: image .* and 10 labels, expected"),
        (partial(write_mat, pictures=PICTURES / 255), r"test\.mat: image .* float64 and 30 labels, expected .* uint8"),
        (partial(write_mat, pictures=PICTURES[:, :28, :28]), r"test\.mat: image \(784, 30\) uint8"),
    ],
)
def test_a_damaged_or_wrong_file_is_named(root, harm, named):
    harm(root / "affnist" / "test.mat")
    with pytest.raises(InputError, match=named):
        make(root).prepare_data()
    assert not (root / "prepared" / "affnist").exists()


def test_another_test_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="test_on='emnist': expected one of affnist, mnist"):
        make(tmp_path, test_on="emnist")


def test_the_network_of_the_config_has_the_parameters_it_states():
    net = yaml.safe_load((CONFIG_DIR / "affnist.yaml").read_text())["model"]["init_args"]["net"]["init_args"]
    parts = {"encoder": SabourEncoder, "routing": DynamicRouting, "decoder": DenseDecoder}
    given = {name: partial(kind, **net[name]["init_args"]) for name, kind in parts.items()}
    data = AffNISTDataModule()
    with torch.device("meta"):
        model = CapsNet(data.in_shape, data.num_classes, dim=net["dim"], **given)
    assert model.encoder.num_capsules == 4608
    sizes = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in parts}
    assert sizes["encoder"] + sizes["routing"] == 11_227_904
    assert sum(sizes.values()) == 13_475_648


@pytest.mark.slow
@pytest.mark.skipif(not list(Path(REAL_ROOT).glob("affnist/test.mat*")), reason="CAPSULE_LIGHTNING_DATA has no affNIST")
def test_real_ones_stand_upright(monkeypatch):
    monkeypatch.undo()
    images, labels = AffNISTDataModule(REAL_ROOT, download=False).load("test")
    assert images.shape == (320_000, 1, 40, 40)
    ones = images[labels == 1, 0].double()
    place = torch.arange(40.0, dtype=torch.float64)
    mass = ones.sum(dim=(1, 2))
    spread = []
    for profile in (ones.sum(dim=2), ones.sum(dim=1)):  # over the rows, over the columns
        mean = profile @ place / mass
        spread.append(profile @ place**2 / mass - mean**2)
    assert (spread[0] > spread[1]).double().mean() > 0.9
