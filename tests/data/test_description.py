"""What a person is told about the data before training."""

import numpy as np
import pytest
import torch
from PIL import Image

from capsule_lightning.data import facts
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.facts import Part, describe_counts
from capsule_lightning.data.image_arrays import ImageArrayDataModule
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.loader import MemoryStore
from capsule_lightning.data.mnist import MNISTDataModule
from capsule_lightning.data.statistics import Brightness, brightness, digests, single_colored, unlike


def folder(root, **options):
    return ImageFolderDataModule(str(root), batch_size=4, **options)


def told(data):
    data.setup("fit")
    return str(data)


def test_data_can_be_printed_at_any_time():
    data = DigitsDataModule()
    assert "nothing is read yet" in str(data)
    data.setup("fit")
    assert "1,293 to train on, 144 to validate on (--data.val_size 0.1)" in str(data)
    data.setup("test")
    assert "1,797 images of 10 classes, 8x8 in gray" in str(data)
    assert "360 to test on" in str(data)


def test_random_images_are_said_to_be_random():
    assert "random images in place of mnist" in told(MNISTDataModule(fake=True, batch_size=8))


def test_sizes_and_splits_of_a_folder_are_told(tmp_path, write_tree, write_image):
    write_tree(tmp_path, ["cat", "dog"], count=20, shape=(12, 10, 3))
    write_image(tmp_path / "dog/large.png", (40, 50, 3))
    first, splits, *others, where = told(folder(tmp_path, image_size=(8, 8))).splitlines()
    assert where.startswith("  in memory: 41 images take 8 KiB of ")  # of free memory, as much as there is
    assert (
        first == f"{tmp_path}: 41 images of 2 classes, 12x10 to 40x50 pixels, read (--data.image_size) as 8x8 in color"
    )
    assert (
        splits.strip() == "30 to train on, 3 to validate on (--data.val_size 0.1), 8 to test on (--data.test_size 0.2)"
    )
    assert [line.strip() for line in others] == [
        "41 of another ratio of rows to columns, squeezed to it (--data.fit squeeze)",
        "train/validation/test: cat 15/1/4, dog 15/2/4",
    ]


def test_what_is_odd_is_told_once_more_when_the_pictures_are_kept(tmp_path, write_tree):
    write_tree(tmp_path, ["cat", "dog"], count=20)
    Image.new("RGBA", (8, 8)).save(tmp_path / "cat/clear.png")
    (tmp_path / "cat/bad.png").write_bytes(b"no")
    (tmp_path / "dog/notes.txt").touch()
    (tmp_path / "photo.heic").touch()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime")]
    frames[0].save(tmp_path / "dog/moving.gif", save_all=True, append_images=frames[1:])
    for _ in range(2):
        lines = told(folder(tmp_path, skip_damaged=True, background="white"))
        assert "1 transparent, laid on white (--data.background)" in lines
        assert "1 damaged and left out: cat/bad.png (cannot be read" in lines
        assert "2 files are not images and are left out: " in lines
        assert "photo.heic" in lines
        assert "dog/notes.txt" in lines
        assert "1 of several frames" in lines
        assert "2 of a single color: " in lines


def test_a_picture_in_two_splits_is_told(tmp_path, write_tree):
    for split, count in (("train", 10), ("test", 4)):
        write_tree(tmp_path / split, ["a", "b"], count=count)
    (tmp_path / "test/b/copy.png").write_bytes((tmp_path / "train/a/3.png").read_bytes())
    lines = told(folder(tmp_path, val_size=0))
    assert "1 to measure with that are also in another split, pixel for pixel: test/b/copy.png = train/a/3.png" in lines


def test_a_picture_in_two_classes_is_told(tmp_path, write_tree):
    write_tree(tmp_path, ["a", "b"], count=10)
    (tmp_path / "b/copy.png").write_bytes((tmp_path / "a/3.png").read_bytes())
    lines = told(folder(tmp_path, test_size=4, val_size=4))
    assert "1 have the pixels of another one of another class: " in lines
    assert "b/copy.png" in lines
    assert "a/3.png" in lines


def test_leaks_and_classes_of_arrays_are_told(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 6), dtype=np.uint8)
    images[50] = images[4]
    labels = np.repeat(np.arange(30), 2)
    cuts = {"train": slice(40), "test": slice(40, 60)}
    numbers = np.concatenate([labels[:40] % 10, labels[40:] % 10])
    numbers[50] = numbers[4]
    arrays = {f"{split}_images": images[cut] for split, cut in cuts.items()}
    arrays |= {f"{split}_labels": numbers[cut] for split, cut in cuts.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    lines = told(ImageArrayDataModule(str(tmp_path / "a.npz"), batch_size=4, val_size=0))
    assert "1 to measure with that are also in another split, pixel for pixel: test image 10 = train image 4" in lines
    assert "train/test: 0 4/2, 1 4/2, 2 4/3" in lines


def test_many_classes_are_told_by_the_rarest_and_the_most_frequent():
    labels = torch.cat([torch.arange(30).repeat_interleave(3), torch.tensor([7, 7])])
    labels = labels[1:]  # class 0 has two, class 7 five
    store = MemoryStore(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels)
    part = Part(store, torch.arange(len(labels)), None)
    (line,) = describe_counts({"train": part}, [f"class {number}" for number in range(30)])
    assert line.startswith("train: 2 of the rarest class to 5 of the most frequent")
    assert line.endswith("class 0 and class 7")


def test_what_is_not_searched_is_told(monkeypatch):
    monkeypatch.setattr(facts, "MOST_BYTES", 10)
    data = DigitsDataModule()
    assert "train and validation: too many pixels to be searched for the same picture twice" in told(data)


def test_a_class_that_is_called_as_a_split_is_told(tmp_path, write_tree):
    write_tree(tmp_path, ["car", "plane", "train"], count=20)
    assert "train: taken for a class" in told(folder(tmp_path))


def test_names_are_told_in_one_line_each(tmp_path, write_tree):
    write_tree(tmp_path, ["cat", "dog"], count=10)
    (tmp_path / "cat/a\nb\x1b[2J.txt").touch()
    assert all(line.isprintable() for line in told(folder(tmp_path)).splitlines())
    assert "a\\nb\\x1b[2J.txt" in told(folder(tmp_path))


def stored(images):
    return MemoryStore(images, torch.zeros(len(images), dtype=torch.int64))


def test_pictures_of_a_single_color_are_found():
    images = torch.zeros(4, 3, 5, 5, dtype=torch.uint8)
    images[0, 1] = 200  # green
    images[2, 0, 3, 3] = 1
    images[3] = 255
    assert single_colored(stored(images)).tolist() == [0, 1, 3]


def test_equal_pictures_have_equal_digests_and_others_others():
    images = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)
    images[7] = images[3]
    found = digests(stored(images)).tolist()
    assert found[7] == found[3]
    assert len(set(found)) == 49


def test_brightness_is_that_of_whole_pictures():
    images = torch.tensor([0, 51, 102, 255], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 6, 6)
    found = brightness(stored(images))
    means = torch.tensor([0.0, 0.2, 0.4, 1.0], dtype=torch.float64)
    assert found.mean == pytest.approx(float(means.mean()))
    assert found.deviation == pytest.approx(float(means.std(correction=0)))


def test_ink_on_paper_is_unlike_light_digits_on_black():
    digits = DigitsDataModule()
    digits.setup("fit")
    usual = digits.brightness()
    pictures = digits.store("train").inputs[:200] / 255
    assert unlike(pictures, usual).abs().sum() == 0
    assert (unlike(1 - pictures, usual) == 1).all()
    assert unlike(torch.zeros(3, 1, 8, 8), Brightness(0.9, 0.0)).tolist() == [-1] * 3


def test_the_brightness_of_training_goes_with_the_run():
    data, other = DigitsDataModule(), DigitsDataModule()
    data.setup("fit")
    other.setup("test")
    state = data.state_dict()
    state["brightness"]["mean"] = 0.125
    other.load_state_dict(state)
    assert other.brightness().mean == 0.125
