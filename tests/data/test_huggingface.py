"""Data sets of Hugging Face's library, as it writes them: the same batches as from arrays, and nothing beyond them."""

import numpy as np
import pytest
import torch
from PIL import Image

from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.huggingface import HuggingFaceDataModule
from capsule_lightning.data.image_arrays import ImageArrayDataModule
from capsule_lightning.errors import InputError

datasets = pytest.importorskip("datasets")

COLOR = np.random.default_rng(1).integers(0, 256, (40, 6, 7, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4
NAMES = ["dog", "ant", "cat", "bee"]
OPTIONS = {"augmentation": NoAugmentation, "batch_size": 4, "val_size": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What the library keeps, it keeps in a folder of the test; it shows no bars."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def dataset(pixels=COLOR, labels=LABELS, kind=None, image="image", label="label"):
    kind = datasets.ClassLabel(names=NAMES) if kind is None else kind
    features = datasets.Features({image: datasets.Image(), label: kind})
    images = [Image.fromarray(each) if isinstance(each, np.ndarray) else each for each in pixels]
    return datasets.Dataset.from_dict({image: images, label: [*labels]}, features=features)


def write(folder, way, splits):
    if way == "parquet":
        for split, each in splits.items():
            each.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    elif len(splits) == 1:
        splits["train"].save_to_disk(folder)
    else:
        datasets.DatasetDict(splits).save_to_disk(folder)
    return str(folder)


@pytest.mark.parametrize("way", ["parquet", "save_to_disk"])
@pytest.mark.parametrize("splits", [False, True], ids=["one", "splits"])
def test_batches_are_those_of_arrays(tmp_path, way, splits):
    cuts = (
        {"train": slice(0, 20), "validation": slice(20, 28), "test": slice(28, 40)} if splits else {"train": slice(40)}
    )
    path = write(tmp_path / "set", way, {name: dataset(COLOR[cut], LABELS[cut]) for name, cut in cuts.items()})
    arrays = {}
    for name, cut in cuts.items():
        prefix = f"{'val' if name == 'validation' else name}_" if splits else ""
        arrays |= {f"{prefix}images": COLOR[cut], f"{prefix}labels": LABELS[cut]}
    np.savez(tmp_path / "a.npz", **arrays)
    expected, found = ImageArrayDataModule(str(tmp_path / "a.npz"), **OPTIONS), HuggingFaceDataModule(path, **OPTIONS)
    for data in (expected, found):
        data.setup("fit")
        data.setup("test")
    assert found.class_names == NAMES
    assert found.statistics == expected.statistics
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for mine, theirs in zip(getattr(found, loader)(), getattr(expected, loader)(), strict=True):
            assert torch.equal(mine.inputs, theirs.inputs)
            assert torch.equal(mine.labels, theirs.labels)
    assert f"{path}: 40 images of 4 classes, 6x7 in color" in str(found)
    assert ("(validation)" in str(found)) == splits


def test_other_columns_sizes_and_words(tmp_path):
    words = np.array(NAMES)[LABELS]
    pixels = [*COLOR[:39], COLOR[39].repeat(2, axis=0)]
    path = write(
        tmp_path / "set", "parquet", {"train": dataset(pixels, words, datasets.Value("string"), "img", "fine")}
    )
    data = HuggingFaceDataModule(
        path, image_column="img", label_column="fine", image_size=(5, 5), channels=1, fit="pad", **OPTIONS
    )
    data.setup("fit")
    assert data.class_names == sorted(NAMES)
    assert data.in_shape == (1, 5, 5)
    assert "40 of another ratio of rows to columns, padded to it with white (--data.fit pad)" in str(data)


def test_damaged_images_are_named_or_left_out(tmp_path):
    train = dataset().cast_column("image", datasets.Image(decode=False))
    rows = train.to_dict()
    rows["image"][7]["bytes"] = b"no image"
    broken = datasets.Dataset.from_dict(rows, features=train.features).cast_column("image", datasets.Image())
    path = write(tmp_path / "set", "save_to_disk", {"train": broken, "test": dataset(COLOR[:8], LABELS[:8])})
    with pytest.raises(InputError, match="train image 7: cannot be read as an image"):
        HuggingFaceDataModule(path, **OPTIONS).setup("fit")
    data = HuggingFaceDataModule(path, skip_damaged=True, **OPTIONS)
    data.setup("fit")
    kept = [number for number in range(40) if number != 7]
    assert torch.equal(data.store("train").inputs, torch.from_numpy(COLOR[kept]).movedim(-1, 1))
    assert data.store("train").labels.tolist() == LABELS[kept].tolist()
    assert "1 damaged and left out" in str(data)


def test_16_bits_ask_for_their_range(tmp_path):
    wide = np.random.default_rng(2).integers(0, 4096, (40, 6, 7), dtype=np.uint16)
    path = write(tmp_path / "set", "parquet", {"train": dataset(wide)})
    with pytest.raises(InputError, match=r"gray of 16 bits; set --data\.value_range"):
        HuggingFaceDataModule(path, channels=1, **OPTIONS).setup("fit")
    data = HuggingFaceDataModule(path, channels=1, value_range=(0, 4095), test_size=8, **OPTIONS)
    found = torch.cat([data.load("train").images, data.load("test").images])
    assert sorted(found.sum(dim=(1, 2, 3)).tolist()) == pytest.approx(sorted((wide / 4095).sum(axis=(1, 2)).tolist()))


def test_splits_without_labels_or_of_other_names_are_left_out_and_told(tmp_path):
    splits = {"train": dataset(), "test": dataset(COLOR[:4], [-1] * 4), "extra": dataset()}
    data = HuggingFaceDataModule(write(tmp_path / "set", "save_to_disk", splits), **OPTIONS)
    data.setup("fit")
    assert "8 to test on (--data.test_size 0.2)" in str(data)
    assert "left out: test, extra, which have no usual names of splits, or no labels" in str(data)


def paths_alone():
    rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": "/etc/hostname"}] * 4, "label": [0, 1] * 2})
    kind = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"image": datasets.Image(decode=False), "label": kind})
    return rows.cast(features)


FAULTS = {
    "column": (lambda: dataset(image="img"), {}, r"no column image; there are img, label; set --data\.image_column"),
    "label": (lambda: dataset(label="y"), {}, r"no column label; .*set --data\.label_column"),
    "kind": (lambda: dataset(), {"image_column": "label"}, "label holds ClassLabel.*expected images"),
    "several": (
        lambda: dataset(labels=[[0, 1]] * 40, kind=datasets.List(datasets.Value("int64"))),
        {},
        "expected a whole number or a word for each image",
    ),
    "unlabeled": (lambda: dataset(labels=[None, 1] * 20), {}, "expected a whole number or a word"),
    "hidden": (lambda: dataset(labels=[-1, 1, 2, 3] * 10), {}, "has images without a label"),
    "paths": (paths_alone, {}, "is not in the data set, which names /etc/hostname"),
    "size": (lambda: dataset(), {"image_size": (0, 4)}, "image_size="),
    "nothing": (lambda: dataset(), {"path": None}, r"set --data\.path"),
}


@pytest.mark.parametrize(("make", "options", "named"), FAULTS.values(), ids=FAULTS)
def test_faults_are_named(tmp_path, make, options, named):
    pq = tmp_path / "set" / "train.parquet"
    pq.parent.mkdir()
    make().to_parquet(pq)
    with pytest.raises(InputError, match=named) as raised:
        HuggingFaceDataModule(**{"path": str(pq.parent), **OPTIONS, **options}).setup("fit")
    assert str(raised.value).isprintable()


def test_what_is_no_data_set_is_named(tmp_path):
    with pytest.raises(InputError, match="nor Parquet files"):
        HuggingFaceDataModule(str(tmp_path), **OPTIONS)
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read as a data set"):
        HuggingFaceDataModule(str(tmp_path), **OPTIONS)
    (tmp_path / "train.parquet").unlink()
    dataset().to_parquet(tmp_path / "extra.parquet")
    with pytest.raises(InputError, match="expected a split train; there are extra"):
        HuggingFaceDataModule(str(tmp_path), **OPTIONS)
    with pytest.raises(InputError, match="no/such_set: cannot be read as a data set"):
        HuggingFaceDataModule("no/such_set", **OPTIONS)
