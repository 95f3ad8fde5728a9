"""The embedded digits: all 1,797 of them, one test set for everyone, a seeded and stratified validation split."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.testing import assert_close

from capsule_lightning.data.digits import DigitsDataModule


@pytest.fixture(scope="module")
def original():
    return load_digits()


def indices(loader):
    return torch.cat([batch.indices for batch in loader])


def split(**options):
    """Indices of the training and of the validation images."""
    data = DigitsDataModule(batch_size=1, **options)
    data.setup("fit")
    return indices(data.train_dataloader()).sort().values, indices(data.val_dataloader())


def test_train_and_test_are_the_whole_collection(original):
    train, test = (DigitsDataModule().load(split) for split in ("train", "test"))
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    assert train.images.shape == (1437, 1, 8, 8)

    pixels = torch.cat([train.images, test.images]).flatten(1).tolist()
    expected = np.round(original.data / 16 * 255).astype(int).tolist()  # 0 to 16 becomes 0 to 255
    labels = torch.cat([train.labels, test.labels]).tolist()
    assert sorted(zip(pixels, labels, strict=True)) == sorted(zip(expected, original.target.tolist(), strict=True))


def test_every_class_is_in_the_test_set_alike():
    counts = DigitsDataModule().load("test").labels.bincount()
    assert len(counts) == 10
    assert (counts - 36).abs().max() <= 1


def test_the_test_set_does_not_follow_the_seed():
    first, second = (DigitsDataModule(seed=seed) for seed in (0, 1))
    for data in (first, second):
        data.setup("test")
    for a, b in zip(first.test_dataloader(), second.test_dataloader(), strict=True):
        assert_close(a.inputs, b.inputs)
        assert_close(a.labels, b.labels)


@pytest.mark.parametrize(("val_size", "count"), [(0.1, 144), (0.25, 359), (437, 437), (100.0, 100)])
def test_validation_is_split_off_the_training_set(val_size, count):
    train, val = split(val_size=val_size)
    assert len(val) == count
    assert torch.cat([train, val]).sort().values.tolist() == list(range(1437))


def test_the_validation_split_follows_the_seed_alone():
    first = split(seed=3)[1].tolist()
    torch.manual_seed(7)
    assert split(seed=3)[1].tolist() == first
    assert split(seed=4)[1].tolist() != first


def test_the_validation_split_is_stratified():
    labels = DigitsDataModule().load("train").labels
    _, val = split(val_size=0.1)
    assert (labels[val].bincount() - labels.bincount() / 10).abs().max() < 1
