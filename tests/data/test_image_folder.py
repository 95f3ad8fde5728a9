"""Folders of anybody's images: both layouts, shapes and classes that follow them, and every fault named."""

import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data import decoded_trees, image_trees
from capsule_lightning.data.affnist import AffNISTDataModule
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.mnist import MNISTDataModule
from capsule_lightning.data.smallnorb import SmallNORBDataModule
from capsule_lightning.data.trained_on import TrainedOn
from capsule_lightning.errors import InputError

CLASSES = ["cat", "dog", "emu"]


@pytest.fixture
def one_tree(tmp_path, write_tree):
    """Ten images of each class, in one folder."""
    write_tree(tmp_path, CLASSES, count=10, shape=(6, 7, 3))
    return tmp_path


@pytest.fixture
def two_trees(tmp_path, write_tree):
    """Four training and two test images of each class, in two folders."""
    pixels = [write_tree(tmp_path / s, CLASSES, count=n, shape=(6, 7, 3)) for s, n in (("train", 4), ("test", 2))]
    return tmp_path, pixels


def make(root, **options):
    return ImageFolderDataModule(str(root), augmentation=NoAugmentation, **options)


def rows(images):
    return {tuple(image.flatten().tolist()) for image in images}


def test_shapes_and_classes_follow_the_images(one_tree):
    data = make(one_tree)
    assert data.in_shape == (3, 6, 7)
    assert data.class_names == CLASSES
    assert data.num_classes == 3


def test_train_and_test_folders_are_read_as_they_are(two_trees):
    root, pixels = two_trees
    for split, expected in zip(("train", "test"), pixels, strict=True):
        stored = make(root).load(split)
        np.testing.assert_array_equal(stored.images.movedim(1, -1).numpy(), expected)
        assert stored.labels.tolist() == sorted([0, 1, 2] * (len(expected) // 3))


@pytest.mark.parametrize(("test_size", "count"), [(0.2, 6), (9, 9)])
def test_one_folder_is_split_by_class_the_same_for_every_seed(one_tree, test_size, count):
    train, test = (make(one_tree, test_size=test_size).load(split) for split in ("train", "test"))
    assert test.labels.bincount().tolist() == [count // 3] * 3
    assert train.labels.bincount().tolist() == [10 - count // 3] * 3
    assert len(rows(train.images) | rows(test.images)) == 30
    assert_close(make(one_tree, test_size=test_size, seed=5).load("test").images, test.images)


def test_labels_stay_with_their_images(tmp_path, write_tree):
    for shade, name in enumerate(CLASSES):
        write_tree(tmp_path, [name], count=5, shape=(8, 8), value=shade)
    for split in ("train", "test"):
        stored = make(tmp_path, channels=1).load(split)
        assert_close(stored.images[:, 0, 0, 0].long(), stored.labels)


def test_one_channel_is_gray(one_tree):
    data = make(one_tree, channels=1)
    assert data.in_shape == (1, 6, 7)
    assert data.load("train").images.shape == (24, 1, 6, 7)


def test_image_size_scales_mixed_sizes(one_tree, write_image):
    write_image(one_tree / "dog" / "large.png", (20, 30, 3))
    data = make(one_tree, image_size=(5, 4), val_size=0, batch_size=25)
    data.setup("fit")
    assert data.in_shape == (3, 5, 4)
    assert data.load("train").images.shape == (25, 3, 5, 4)


def test_mixed_sizes_are_refused_without_image_size(one_tree, write_image):
    write_image(one_tree / "dog" / "large.png", (20, 30, 3))
    with pytest.raises(InputError, match=r"large\.png: 20x30 pixels; expected 6x7 .*--data\.image_size"):
        make(one_tree).prepare_data()


def test_channel_statistics_are_those_of_the_training_images(one_tree):
    data = make(one_tree, batch_size=24, val_size=0)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    images = data.on_after_batch_transfer(batch, 0).images
    assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    assert_close(images.std(dim=(0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5)


def test_files_are_decoded_once_until_one_changes(one_tree, monkeypatch, write_image):
    calls = Mock(side_effect=decoded_trees.read_files)
    monkeypatch.setattr(decoded_trees, "read_files", calls)
    for _ in range(2):
        make(one_tree).prepare_data()
    assert calls.call_count == 2  # train and test
    for number in range(10):
        write_image(one_tree / "cat" / f"{number}.png", np.zeros((6, 7, 3), dtype=np.uint8))
    stored = make(one_tree).load("train")
    assert calls.call_count == 3
    assert stored.images[stored.labels == 0].max() == 0
    make(one_tree, channels=1).load("train")
    assert calls.call_count == 4


def test_a_root_that_cannot_be_written_is_read(one_tree):
    (one_tree / ".prepared").touch()  # in the way of the folder, which stops even the superuser
    assert len(make(one_tree).load("train").labels) == 24


def test_an_empty_class_folder_is_named(one_tree):
    (one_tree / "fox").mkdir()
    with pytest.raises(InputError, match="/fox: the class folder is empty"):
        make(one_tree)


@pytest.mark.parametrize("missing", ["train/cat", "test/cat"])
def test_train_and_test_must_have_the_same_classes(two_trees, missing):
    root, _ = two_trees
    shutil.rmtree(root / missing)
    with pytest.raises(InputError, match="differing: cat"):
        make(root).prepare_data()


def test_an_unreadable_image_is_named(one_tree):
    (one_tree / "emu" / "3.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"emu/3\.png: cannot be read as an image"):
        make(one_tree).prepare_data()


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder; set --data\.root"):
        make(tmp_path / "nowhere")


@pytest.mark.parametrize("root", ["a" * 300, "nul\0", "/dev/null", "~nobody_here/x"], ids=ascii)
@pytest.mark.parametrize("kind", [ImageFolderDataModule, MNISTDataModule, SmallNORBDataModule, AffNISTDataModule])
def test_a_root_that_cannot_be_one_is_refused_in_one_line(root, kind):
    with pytest.raises(InputError) as raised:
        kind(root, **({} if kind is ImageFolderDataModule else {"download": False})).prepare_data()
    assert str(raised.value).isprintable()


def test_a_missing_test_folder_is_named(two_trees):
    root, _ = two_trees
    shutil.rmtree(root / "test")
    with pytest.raises(InputError, match=r"/test: no such folder; expected it beside .*/train"):
        make(root)


@pytest.mark.parametrize("image_size", [None, (8, 8)])
def test_a_root_without_class_folders_is_named(tmp_path, write_image, image_size):
    write_image(tmp_path / "a.png", (8, 8))
    with pytest.raises(InputError, match=r"no class folders; expected .*/<class>/<image>"):
        make(tmp_path, image_size=image_size)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"channels": 2}, "channels=2: expected 1"),
        ({"image_size": (0, 8)}, r"image_size=\(0, 8\): expected at least 1"),
        ({"image_size": (10**6, 10**6)}, r"image_size=\(1000000, 1000000\): .*at most 64,000,000 pixels"),
        ({"test_size": 0}, "test_size=0: expected a fraction"),
        ({"test_size": -0.1}, "test_size=-0.1: expected a fraction"),
        ({"test_size": 2}, r"cannot split 2 of 30 .*change --data\.test_size"),
        ({"test_size": 30}, r"cannot split 30 of 30 .*change --data\.test_size"),
    ],
)
def test_bad_values_are_refused(one_tree, options, named):
    with pytest.raises(InputError, match=named):
        make(one_tree, **options).prepare_data()


def test_predicts_after_channel_normalization_without_a_test_run(one_tree, tmp_path_factory, write_image):
    folder = tmp_path_factory.mktemp("new")
    write_image(folder / "a.png", (9, 9))
    data = make(one_tree, images=str(folder))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert data.on_after_batch_transfer(batch, 0).images.shape == (1, 3, 6, 7)


def test_what_is_loaded_without_preparation_is_kept_too(one_tree, monkeypatch):
    calls = Mock(side_effect=decoded_trees.read_files)
    monkeypatch.setattr(decoded_trees, "read_files", calls)
    first, again = (make(one_tree).load("train") for _ in range(2))
    assert calls.call_count == 1
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert (one_tree / ".prepared" / "3x6x7" / "train" / "images.npy").is_file()


def test_a_class_with_too_few_images_is_named_with_what_helps(one_tree, write_tree):
    write_tree(one_tree, ["lynx"], count=1, shape=(6, 7, 3))
    with pytest.raises(InputError, match=r"lynx has 1\); expected at least 3, to train, validate, test"):
        make(one_tree)
    with pytest.raises(InputError, match=r"lynx has 1\); expected at least 2, to train, test"):
        make(one_tree, val_size=0)
    write_tree(one_tree, ["lynx"], count=2, shape=(6, 7, 3))
    make(one_tree, val_size=0, batch_size=4).setup("fit")


def test_a_test_size_that_leaves_nothing_is_refused(one_tree):
    with pytest.raises(InputError, match=r"test_size=0\.01: leaves no image to test on .*at least 3"):
        make(one_tree, test_size=0.01).prepare_data()


@pytest.mark.parametrize(("val_size", "train", "val"), [(0.1, 12, 6), (0, 12, 0)])
def test_a_validation_folder_is_validated_on(tmp_path, write_tree, val_size, train, val):
    pixels = {s: write_tree(tmp_path / s, CLASSES, n, (6, 7, 3)) for s, n in (("Train", 4), ("Valid", 2), ("Test", 3))}
    data = make(tmp_path, batch_size=4, val_size=val_size)
    data.setup()
    assert (len(data._train), len(data._val), len(data.store("test"))) == (train, val, 9)
    seen = rows(data.store("train").inputs[data._val])
    assert seen == (rows(torch.from_numpy(pixels["Valid"]).movedim(-1, 1)) if val else set())


def test_without_a_test_folder_a_test_set_is_split_off_the_training_folder(tmp_path, write_tree):
    for split, count in (("train", 10), ("val", 3)):
        write_tree(tmp_path / split, CLASSES, count, (6, 7, 3))
    data = make(tmp_path, batch_size=4)
    data.setup()
    assert (len(data._train), len(data._val), len(data.store("test"))) == (24, 9, 6)


def test_linked_folders_are_read(one_tree, tmp_path_factory, write_tree):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_tree(elsewhere, ["more"], count=5, shape=(6, 7, 3))
    (one_tree / "cat" / "more").symlink_to(elsewhere / "more")
    data = make(one_tree, batch_size=4)
    data.setup()
    assert len(data._train) + len(data._val) + len(data.store("test")) == 35


def test_pictures_are_read_again_if_they_are_read_in_another_way(one_tree):
    plain = make(one_tree).load("train").images
    inverted = make(one_tree, invert=True).load("train").images
    assert torch.equal(255 - plain, inverted)
    assert torch.equal(make(one_tree).load("train").images, plain)


def test_damaged_files_are_left_out_on_demand_and_refused_again_without(one_tree):
    (one_tree / "emu" / "3.png").write_bytes(b"no image")
    data = make(one_tree, skip_damaged=True)
    assert sum(len(data.load(split).labels) for split in ("train", "test")) == 29
    with pytest.raises(InputError, match=r"emu/3\.png: cannot be read"):
        make(one_tree).prepare_data()
    again = make(one_tree, skip_damaged=True)
    assert sum(len(again.load(split).labels) for split in ("train", "test")) == 29
    assert list(again.met["train"].damaged) + list(again.met["test"].damaged) == ["emu/3.png"]


def test_a_class_of_damaged_files_alone_is_named(one_tree):
    for path in (one_tree / "emu").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="no image of the class emu can be read"):
        make(one_tree, skip_damaged=True).prepare_data()


@pytest.mark.parametrize(
    "name", [b"caf\xe9".decode("utf-8", "surrogateescape"), "$\\frac$", "two\nlines", "a,b"], ids=ascii
)
def test_names_of_classes_are_those_that_can_be_printed(one_tree, write_tree, name):
    write_tree(one_tree, [name], count=10, shape=(6, 7, 3))
    data = make(one_tree, batch_size=4, val_size=4)
    data.setup()
    assert all(each.isprintable() for each in data.class_names)
    assert sum(
        data.store("train").labels == data.class_names.index(next(n for n in data.class_names if n not in CLASSES))
    )


# The order of classes.


def numbered(root, write_image):
    """Class folders of the names 1 to 12, each image of one color."""
    for number in range(1, 13):
        for place in range(6):
            write_image(root / str(number) / f"{place}.png", np.full((6, 6, 3), 20 * number + place, dtype=np.uint8))
    return root


OLD = sorted(map(str, range(1, 13)))


def opened(root, **options):
    data = ImageFolderDataModule(str(root), batch_size=8, seed=1, val_size=12, **options)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def every(data):
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    return [data.on_after_batch_transfer(batch, 0)[:4] for loader in loaders for batch in loader]


@pytest.mark.parametrize("stored", ["memory", "shards"])
def test_numbers_are_in_their_order_and_a_network_of_before_keeps_its_own(tmp_path, write_image, monkeypatch, stored):
    root = numbered(tmp_path / "photos", write_image)
    with monkeypatch.context() as before:
        before.setattr(image_trees, "in_order", sorted)  # as it was
        old = opened(root, storage=stored)
        expected, record = every(old), old.state_dict()
    assert old.class_names == OLD == ["1", "10", "11", "12", *"23456789"]
    new = opened(root, storage=stored)
    assert new.class_names == [str(number) for number in range(1, 13)]
    tree = {str(file): label for file, label in zip(new.files_of("train"), new.store("train").labels, strict=True)}
    assert all(new.class_names[label] == file.split("/")[0] for file, label in tree.items())
    trained = TrainedOn("photos", OLD, list(new.in_shape), normalization="channel", statistics=old.statistics)
    late = new
    late.load_state_dict(record)  # as a trainer does, before the network's own state
    trained.require_same(late, "net")
    early = ImageFolderDataModule(str(root), batch_size=8, seed=1, val_size=12, storage=stored)
    trained.require_same(early, "net")
    early.prepare_data()
    early.setup("fit")
    early.setup("test")
    for data in (late, early):
        assert data.class_names == OLD
        assert data.statistics == old.statistics
        for one, other in zip(every(data), expected, strict=True):
            assert all(map(torch.equal, one, other))
    with pytest.raises(InputError, match=r"12 classes .* have 12: 1, 2, 3"):
        TrainedOn("photos", [*OLD[:-1], "13"], list(new.in_shape)).require_same(opened(root), "net")
