"""Which folders are splits and which are classes."""

import pytest

from capsule_lightning.data.split_folders import find_splits
from capsule_lightning.errors import InputError


def folders(root, *names):
    """Folders, each of which holds a file."""
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "0.png").touch()


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", None, "test"),
        ("Train", "Validation", "Test"),
        ("TRAINING", "VALID", "Testing"),
        ("training", "val", None),
        ("train", "dev", "TEST"),
    ],
)
def test_splits_have_any_of_their_usual_names(tmp_path, train, val, test):
    for name in filter(None, (train, val, test)):
        folders(tmp_path / name, "cat", "dog")
    found = find_splits(tmp_path)
    names = [None if path is None else path.name for path in found[:3]]
    assert names == [train, val, test]
    assert not found.note


def test_class_folders_are_no_splits(tmp_path):
    folders(tmp_path, "cat", "dog")
    assert find_splits(tmp_path) == (tmp_path, None, None, "")


@pytest.mark.parametrize("name", ["train", "Test", "dev"])
def test_a_class_with_the_name_of_a_split_is_told(tmp_path, name):
    folders(tmp_path, "car", "plane", name)
    found = find_splits(tmp_path)
    assert found[:3] == (tmp_path, None, None)
    assert name in found.note


def test_splits_without_classes_are_refused(tmp_path):
    folders(tmp_path, "train", "test")
    with pytest.raises(InputError, match=r"train, test hold images and no class folders.*split_folders false"):
        find_splits(tmp_path)
    assert find_splits(tmp_path, split_folders=False)[:3] == (tmp_path, None, None)


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["train/a", "Training/a", "test/a"], "train.* both a train split|Training and train are both a train split"),
        (["train/a", "test/a", "dog"], r"beside dog: expected either splits or classes; .*split_folders false"),
        (["test/a", "val/a"], r"/train: no such folder; expected it beside .*/val"),
        (["train/a"], r"/test: no such folder; expected it beside .*/train"),
        (["car", "plane", "train/red"], r"train beside car, plane: .*split_folders false"),
    ],
)
def test_what_is_neither_splits_nor_classes_is_refused(tmp_path, names, named):
    folders(tmp_path, *names)
    with pytest.raises(InputError, match=named):
        find_splits(tmp_path)


def test_splits_can_be_demanded(tmp_path):
    folders(tmp_path, "cat", "dog")
    with pytest.raises(InputError, match="split_folders=true"):
        find_splits(tmp_path, split_folders=True)
