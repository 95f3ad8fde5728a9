"""What all data modules share: shapes, splits, normalization on the device, prediction, and values refused."""

import inspect
import pkgutil
from importlib import import_module

import numpy as np
import pytest
import torch
from one_process import one_process
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

import capsule_lightning.data
from capsule_lightning.augmentations.base import standardize
from capsule_lightning.augmentations.geometry import PaddedCrop, Shift
from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.augmentations.patch import RandomPatch
from capsule_lightning.data.base import ImageDataModule, channel_statistics, fake_images
from capsule_lightning.data.cifar import CIFAR10DataModule
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.feature_vectors import FeatureDataModule
from capsule_lightning.data.huggingface import HuggingFaceDataModule
from capsule_lightning.data.image_arrays import ImageArrayDataModule
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.image_table import ImageTableDataModule
from capsule_lightning.data.loader import MemoryStore, StoredBatch, fits
from capsule_lightning.data.mnist import MNISTDataModule
from capsule_lightning.data.prepared import Images
from capsule_lightning.errors import InputError


def data_modules():
    """Every concrete data module of the package."""
    names = [module.name for module in pkgutil.iter_modules(capsule_lightning.data.__path__, "capsule_lightning.data.")]
    classes = {member for name in names for member in vars(import_module(name)).values() if inspect.isclass(member)}
    found = [c for c in classes if issubclass(c, ImageDataModule) and not inspect.isabstract(c)]
    return sorted(found, key=lambda c: c.name)


def batches(data, stage):
    """The batches of a stage as a task receives them."""
    data.setup(stage)
    loader = data.train_dataloader() if stage == "fit" else getattr(data, f"{stage}_dataloader")()
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def ready(make, stage, **options):
    data = make(**options)
    data.setup(stage)
    return data


def source_of(make, folder, write_tree):
    """Options with which a data set has 40 images of its own, or noise."""
    if make is ImageArrayDataModule:
        pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
        np.savez(folder / "a.npz", images=pixels, labels=np.arange(40) % 2)
        return {"path": str(folder / "a.npz"), "batch_size": 8}
    if make is FeatureDataModule:
        np.savez(folder / "v.npz", features=np.random.default_rng(0).normal(size=(40, 6)), labels=np.arange(40) % 2)
        return {"path": str(folder / "v.npz"), "batch_size": 8}
    if make is HuggingFaceDataModule:
        datasets = pytest.importorskip("datasets")
        pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
        columns = {"image": [Image.fromarray(each) for each in pixels], "label": [0, 1] * 20}
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(folder / "set")
        return {"path": str(folder / "set"), "batch_size": 8}
    if make not in (ImageFolderDataModule, ImageTableDataModule):
        return {"fake": True, "batch_size": 50}
    write_tree(folder, ["a", "b"], count=20)
    rows = [f"{label}/{number}.png,{label}" for label in "ab" for number in range(20)]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]))
    where = {"root": str(folder)} if make is ImageFolderDataModule else {"table": str(folder / "labels.csv")}
    return {**where, "batch_size": 8}


@pytest.fixture(params=data_modules(), ids=lambda make: make.name)
def each_data_module(request, tmp_path, write_tree):
    """Every data set, of noise or of image files."""
    return request.param(**source_of(request.param, tmp_path, write_tree))


@pytest.mark.parametrize("make", [c for c in data_modules() if c.num_labels == 1], ids=lambda make: make.name)
@pytest.mark.parametrize("balanced", [False, True])
def test_balanced_training_draws_with_replacement(make, balanced, tmp_path, write_tree):
    data = ready(make, "fit", **source_of(make, tmp_path, write_tree) | {"batch_size": 8, "balanced": balanced})
    trained, validated = (
        [index for batch in loader for index in batch.indices.tolist()]
        for loader in (data.train_dataloader(), data.val_dataloader())
    )
    assert (len(set(trained)) < len(trained)) == balanced
    assert len(set(validated)) == len(validated)


def test_rare_classes_are_trained_on_as_often_and_counted_as_they_are(write_tree, tmp_path):
    write_tree(tmp_path, ["a"], count=40)
    write_tree(tmp_path, ["b"], count=10)
    data = ready(ImageFolderDataModule, "fit", root=str(tmp_path), batch_size=4, val_size=0.1, balanced=True)
    assert data.class_counts().tolist() == data.store("train").labels[data._train].bincount().tolist()
    few = data.class_counts()[1] / data.class_counts().sum()
    assert few < 0.25
    loader, labels = data.train_dataloader(), []
    for epoch in range(40):
        loader.set_epoch(epoch)
        labels += [label for batch in loader for label in batch.labels.tolist()]
    rare = sum(labels)
    assert abs(rare - len(labels) / 2) < 5 * (len(labels) / 4) ** 0.5  # five standard deviations


def test_every_data_module_states_the_shapes_of_its_batches(each_data_module):
    data = each_data_module
    data.prepare_data()
    for stage in ("fit", "test"):
        for batch in batches(data, stage):
            assert batch.images.shape[1:] == batch.pictures.shape[-3:] == data.in_shape
            assert batch.images.dtype == torch.float32
            assert batch.labels.dtype == torch.int64
            assert batch.labels.min() >= 0
            assert batch.labels.max() < data.num_classes
    assert len(set(data.class_names)) == data.num_classes


def test_the_data_modules_are_found():
    assert {CIFAR10DataModule, DigitsDataModule, ImageFolderDataModule, MNISTDataModule} < set(data_modules())
    assert inspect.isabstract(ImageDataModule)


@pytest.mark.parametrize(("size", "shape"), [(24, (3, 24, 24)), (32, (3, 32, 32))])
def test_in_shape_follows_the_augmentation(size, shape):
    assert CIFAR10DataModule(augmentation=lambda: RandomPatch(size)).in_shape == shape


def test_a_patch_larger_than_the_images_is_refused():
    with pytest.raises(InputError, match="size=33: larger than the images of 32x32"):
        _ = CIFAR10DataModule(augmentation=lambda: RandomPatch(33)).in_shape


@pytest.mark.parametrize("stage", ["fit", "test"])
@pytest.mark.parametrize("normalization", ["none", "per_image", "channel"])
def test_the_input_is_normalized_and_the_target_is_not(stage, normalization):
    data = CIFAR10DataModule(fake=True, augmentation=NoAugmentation, normalization=normalization)
    stored = fake_images((3, 32, 32), 10, "train" if stage == "fit" else "test").images / 255
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in data.statistics)
    expected = {"none": stored, "per_image": standardize(stored), "channel": (stored - mean) / deviation}[normalization]
    for batch in batches(data, stage):
        assert_close(batch.pictures, stored[batch.indices])
        assert_close(batch.images, expected[batch.indices])


@pytest.mark.parametrize("normalization", ["none", "per_image", "channel"])
def test_the_target_of_an_augmented_image_stays_in_range(normalization):
    data = CIFAR10DataModule(fake=True, normalization=normalization)  # brightness and contrast leave the range
    for batch in batches(data, "fit"):
        assert batch.pictures.min() == 0
        assert batch.pictures.max() == 1
        if normalization == "none":
            assert batch.images.min() < 0
            assert_close(batch.images.clamp(0, 1), batch.pictures)


@pytest.mark.parametrize("augmentation", [Shift, PaddedCrop, RandomPatch])
def test_training_images_are_augmented_with_the_draws_of_the_loader(augmentation):
    data = ready(CIFAR10DataModule, "fit", fake=True, augmentation=augmentation, normalization="per_image")
    for stored in data.train_dataloader():
        augmented = augmentation().train(stored.inputs / 255, stored.draws)
        batch = data.on_after_batch_transfer(stored, 0)
        assert_close(batch.images, standardize(augmented))
        assert_close(batch.pictures, augmented.clamp(0, 1))


def test_validation_images_are_not_augmented():
    data = ready(DigitsDataModule, "fit")
    for batch in data.val_dataloader():
        assert_close(data.on_after_batch_transfer(batch, 0).pictures, batch.inputs / 255)


@pytest.mark.parametrize("augmentation", [Shift, PaddedCrop, RandomPatch])
@pytest.mark.parametrize("normalization", ["none", "per_image", "channel"])
def test_nothing_leaves_the_device_of_the_batch(normalization, augmentation):
    data = ready(CIFAR10DataModule, "fit", fake=True, augmentation=augmentation, normalization=normalization)
    stored = next(iter(data.train_dataloader()))
    batch = data.on_after_batch_transfer(StoredBatch(*(part.to("meta") for part in stored)), 0)
    assert all(part.is_meta for part in batch[:4])  # an operation with a tensor elsewhere would have raised


def test_channel_statistics_equal_those_of_numpy():
    images = torch.randint(0, 256, (50, 3, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 1] //= 4
    means, deviations = channel_statistics(MemoryStore(images, torch.zeros(50).long()))
    values = images.numpy() / 255
    np.testing.assert_allclose(means, values.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviations, values.std(axis=(0, 2, 3)), rtol=1e-12)


def test_unknown_statistics_are_measured_on_the_training_images():
    data = ready(DigitsDataModule, "test", normalization="channel")
    assert data.statistics == channel_statistics(MemoryStore(*DigitsDataModule().load("train")))


def test_fitting_after_testing_trains_on_all():
    data = ready(DigitsDataModule, "test", normalization="channel")
    data.setup("fit")
    assert len(data.train_dataloader()) == data.steps_per_epoch == 10


@pytest.mark.parametrize(("val_size", "count"), [(0, 0), (0.0, 0), (0.25, 359), (100, 100)])
def test_val_size_is_a_fraction_or_a_number(val_size, count):
    data = ready(DigitsDataModule, "fit", val_size=val_size, batch_size=1)
    assert sum(len(batch.labels) for batch in data.val_dataloader()) == count
    assert len(data.train_dataloader()) == data.steps_per_epoch == 1437 - count
    assert (data.val_dataloader() == []) == (count == 0)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_batch_is_that_of_all_processes(world_size):
    data = ready(DigitsDataModule, "fit", batch_size=64)
    data.trainer = one_process(world_size - 1, world_size)
    assert {len(batch.labels) for batch in data.train_dataloader()} == {64 // world_size}


def test_a_batch_that_the_processes_do_not_divide_is_refused():
    data = ready(DigitsDataModule, "fit", batch_size=64)
    data.trainer = one_process(world_size=3)
    with pytest.raises(InputError, match=r"batch_size=64 .* all 3 processes together: choose a multiple of 3"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
        ({"batch_size": -4}, "batch_size=-4: expected at least 1"),
        (
            {"batch_size": 1294},
            "batch_size=1294 but only 1293 training examples: set --data.batch_size to at most 1293",
        ),
        ({"val_size": -1}, "val_size=-1: expected 0"),
        ({"val_size": 1.5}, "val_size=1.5: expected 0"),
        ({"val_size": 9}, r"cannot split 9 of 1437 .*change --data\.val_size"),
        ({"val_size": 1437}, r"cannot split 1437 of 1437 .*change --data\.val_size"),
    ],
)
def test_bad_values_are_refused(options, named):
    with pytest.raises(InputError, match=named):
        ready(DigitsDataModule, "fit", **options)


@pytest.mark.parametrize(
    ("label", "named"),
    [(10, "labels reach 10 in"), (11, "num_classes=10 but labels reach 11"), (-1, "labels reach -1")],
)
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_labels_outside_the_classes_are_refused(monkeypatch, stage, label, named):
    labels = torch.arange(20) % 10
    labels[7] = label
    images = Images(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), labels)
    monkeypatch.setattr(DigitsDataModule, "load", lambda self, split: images)
    with pytest.raises(InputError, match=named):
        ready(DigitsDataModule, stage)


def test_images_of_another_shape_are_refused(monkeypatch):
    images = Images(torch.zeros(10, 1, 9, 8, dtype=torch.uint8), torch.arange(10))
    monkeypatch.setattr(DigitsDataModule, "load", lambda self, split: images)
    with pytest.raises(InputError, match=r"test images of digits are \(1, 9, 8\); expected \(1, 8, 8\)"):
        ready(DigitsDataModule, "test")


def test_predicts_a_folder_of_files_of_any_size(tmp_path, write_image):
    for name, shape in {"b.png": (8, 8), "a.jpg": (20, 30, 3), "c/a.png": (3, 3)}.items():
        write_image(tmp_path / name, shape)
    data = DigitsDataModule(images=str(tmp_path))
    (batch,) = batches(data, "predict")
    assert batch.images.shape == (3, 1, 8, 8)
    assert batch.labels.tolist() == [-1, -1, -1]
    assert [data.name_of(i) for i in batch.indices] == [str(tmp_path / name) for name in ("a.jpg", "b.png", "c/a.png")]


def test_predicts_one_file(tmp_path, write_image):
    pixels = write_image(tmp_path / "a.png", (8, 8))
    write_image(tmp_path / "b.png", (8, 8))
    (batch,) = batches(DigitsDataModule(images=str(tmp_path / "a.png")), "predict")
    assert_close(batch.images, torch.from_numpy(pixels)[None, None] / 255)


def test_predicts_the_test_images_by_default():
    data = DigitsDataModule()
    predicted = torch.cat([batch.images for batch in batches(data, "predict")])
    assert_close(predicted, data.load("test").images / 255)
    assert data.name_of(3) == "3"


def test_images_for_prediction_do_not_replace_the_test_set(tmp_path, write_image):
    write_image(tmp_path / "a.png", (8, 8))
    assert sum(len(batch.labels) for batch in batches(DigitsDataModule(images=str(tmp_path)), "test")) == 360


def test_missing_images_for_prediction_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        ready(DigitsDataModule, "predict", images=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no images in this folder"):
        ready(DigitsDataModule, "predict", images=str(tmp_path))


def test_fake_images_need_no_disk_and_are_always_the_same(tmp_path):
    first, second = (ready(MNISTDataModule, "fit", root=str(tmp_path / "nowhere"), fake=True) for _ in range(2))
    for data in (first, second):
        data.prepare_data()
    for a, b in zip(first.train_dataloader(), second.train_dataloader(), strict=True):
        assert_close(a.inputs, b.inputs)
    assert not (tmp_path / "nowhere").exists()


def test_fake_images_of_a_class_resemble_each_other():
    train, test = (fake_images((1, 8, 8), 10, split) for split in ("train", "test"))
    centers = torch.stack([train.images[train.labels == label].float().mean(dim=0) for label in range(10)])
    distances = torch.cdist(test.images.flatten(1).float(), centers.flatten(1))
    assert distances.argmin(dim=1).tolist() == test.labels.tolist()


# tensors without values, which say where they would be and refuse operations between devices: no GPU is needed
def test_batches_of_images_on_a_gpu_are_made_there(each_data_module):
    data = each_data_module
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        with FakeTensorMode(allow_non_fake_inputs=True):
            loader.store = MemoryStore(loader.store.inputs.to("cuda"), loader.store.labels.to("cuda"))
            for name in ("by_class", "counts"):  # of pairs of digits
                if hasattr(loader, name):
                    setattr(loader, name, getattr(loader, name).to("cuda"))
            batch = next(iter(loader))
            seen = data.on_after_batch_transfer(batch, 0)
        for tensor in (*batch, *seen[:4]):
            assert tensor is None or tensor.device.type == "cuda"


def test_images_go_to_the_gpu_of_the_trainer_where_they_fit_and_back(monkeypatch):
    free = 0
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**12))
    data = ready(DigitsDataModule, "fit")
    data.trainer = one_process(device="cuda:0")
    at = data.trainer.strategy
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert data.val_dataloader().store.inputs.device.type == "cpu"
        free = 10 * data.val_dataloader().store.inputs.nbytes
        for store in (data.val_dataloader().store, data.train_dataloader().store):
            assert store.inputs.device == store.labels.device == at.root_device
        free, at.root_device = 0, torch.device("cpu")
        assert data.val_dataloader().store.inputs.device.type == "cpu"


def test_images_stay_where_they_are_unless_the_device_is_a_gpu():
    assert not fits(torch.zeros(1), torch.device("mps"))


def test_ink_on_paper_can_be_predicted_as_light_on_black(tmp_path, write_image):
    pixels = write_image(tmp_path / "a.png", (8, 8))
    (batch,) = batches(DigitsDataModule(images=str(tmp_path), invert=True), "predict")
    assert_close(batch.images, torch.from_numpy(255 - pixels)[None, None] / 255)


@pytest.mark.parametrize("images", ["a" * 300, "nul\0", "/dev/null", "", "~nobody_here/x"], ids=ascii)
def test_images_for_prediction_that_are_nothing_of_the_kind_are_named(images):
    with pytest.raises(InputError, match=r"expected an image file|takes an image file or a folder") as raised:
        ready(DigitsDataModule, "predict", images=images)
    assert str(raised.value).isprintable()


def test_damaged_images_for_prediction_are_left_out_on_demand(tmp_path, write_image):
    write_image(tmp_path / "a.png", (8, 8))
    write_image(tmp_path / "c.png", (8, 8))
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "d.png").mkdir()
    with pytest.raises(InputError, match=r"d\.png: is a folder, not an image file"):
        ready(DigitsDataModule, "predict", images=str(tmp_path))
    data = DigitsDataModule(images=str(tmp_path), skip_damaged=True)
    (batch,) = batches(data, "predict")
    assert [data.name_of(i) for i in batch.indices] == [str(tmp_path / "a.png"), str(tmp_path / "c.png")]
    assert list(data.met["predict"].damaged) == ["b.png", "d.png"]
