"""What all data modules share: shapes, splits, normalisation on the device, prediction, and values refused."""

import inspect
import pkgutil
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import capsule_lightning.data
from capsule_lightning.data.augmentation import NoAugmentation, RandomPatch, Shift, standardise
from capsule_lightning.data.base import ImageBatch, ImageDataModule, channel_statistics
from capsule_lightning.data.cifar import CIFAR10DataModule
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.mnist import MNISTDataModule
from capsule_lightning.data.prepared import Images
from capsule_lightning.errors import InputError


def data_modules():
    """Every concrete data module of the package."""
    for module in pkgutil.iter_modules(capsule_lightning.data.__path__, "capsule_lightning.data."):
        for member in vars(import_module(module.name)).values():
            if (
                inspect.isclass(member)
                and issubclass(member, ImageDataModule)
                and not inspect.isabstract(member)
                and member.__module__ == module.name
            ):
                yield member


def batches(data, stage):
    """The batches of a stage as a task receives them."""
    data.setup(stage)
    loader = data.train_dataloader() if stage == "fit" else getattr(data, f"{stage}_dataloader")()
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def ready(make, stage, **options):
    data = make(**options)
    data.setup(stage)
    return data


@pytest.mark.parametrize("make", data_modules(), ids=lambda make: make.name)
def test_every_data_module_states_the_shapes_of_its_batches(tmp_path, write_tree, make):
    if make is ImageFolderDataModule:
        write_tree(tmp_path, ["a", "b"], count=20)
        data = make(str(tmp_path), batch_size=8)
    else:
        data = make(batch_size=50, fake=True)
        data.prepare_data()
    for stage in ("fit", "test"):
        for batch in batches(data, stage):
            assert batch.images.shape[1:] == batch.pictures.shape[1:] == data.in_shape
            assert batch.images.dtype == torch.float32
            assert batch.labels.dtype == torch.int64
            assert batch.labels.min() >= 0
            assert batch.labels.max() < data.num_classes
    assert len(set(data.class_names)) == data.num_classes


def test_the_data_modules_are_found():
    assert {CIFAR10DataModule, DigitsDataModule, ImageFolderDataModule, MNISTDataModule} < set(data_modules())


@pytest.mark.parametrize(("size", "shape"), [(24, (3, 24, 24)), (32, (3, 32, 32))])
def test_in_shape_follows_the_augmentation(size, shape):
    assert CIFAR10DataModule(augmentation=lambda: RandomPatch(size)).in_shape == shape


def test_a_patch_larger_than_the_images_is_refused():
    with pytest.raises(InputError, match="size=33 is larger than the images of 32x32"):
        _ = CIFAR10DataModule(augmentation=lambda: RandomPatch(33)).in_shape


@pytest.mark.parametrize("stage", ["fit", "test"])
@pytest.mark.parametrize("normalisation", ["none", "per_image", "channel"])
def test_the_input_is_normalised_and_the_target_is_not(stage, normalisation):
    data = CIFAR10DataModule(fake=True, augmentation=NoAugmentation, normalisation=normalisation)
    normalise = {
        "none": lambda pictures: pictures,
        "per_image": standardise,
        "channel": lambda p: (p - torch.tensor(data.statistics[0])[:, None, None])
        / torch.tensor(data.statistics[1])[:, None, None],
    }[normalisation]
    for batch in batches(data, stage):
        stored = data.load_for_test[stage][batch.indices] if hasattr(data, "load_for_test") else None
        assert stored is None
        assert_close(batch.images, normalise(batch.pictures))
