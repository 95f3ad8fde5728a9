"""Vectors of tables and arrays: what they say is what is trained on, and every fault is named before."""

import csv
import itertools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.data.feature_vectors import FeatureDataModule
from capsule_lightning.errors import InputError

COLUMNS = ["length", "width", "mass"]


def rows(count=60):
    random = np.random.default_rng(0)
    values = random.normal([5, -300, 0.02], [1, 40, 0.001], (count, 3))
    return [
        {"id": f"x{n}", **{c: repr(float(v)) for c, v in zip(COLUMNS, each, strict=True)}, "label": f"{n % 3}"}
        for n, each in enumerate(values)
    ]


def write(folder, found, name="omics.csv"):
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return folder / name


def make(path, **options):
    return FeatureDataModule(**{"path": str(path), "columns": COLUMNS, "batch_size": 8, "seed": 1, **options})


def ready(data):
    data.setup("fit")
    data.setup("test")
    return data


def seen(data, loader):
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def test_vectors_are_normalized_by_the_vectors_to_train_on(tmp_path):
    found = rows()
    data = ready(make(write(tmp_path, found)))
    store, train = data.store("train"), data._train
    raw = store.take(train)[:, :, 0, 0].double()
    assert_close(torch.tensor(data.statistics[0], dtype=torch.float64), raw.mean(0))
    (batch, *_) = seen(data, data.test_dataloader())
    test = data.store("test").take(batch.indices).double()[:, :, 0, 0]
    expected = (test - raw.mean(0)) / raw.std(0, correction=0)
    assert_close(batch.images[:, :, 0, 0], expected.float(), rtol=1e-4, atol=1e-4)
    assert_close(batch.pictures, (batch.images / 6 + 0.5).clamp(0, 1))
    assert data.in_shape == (3, 1, 1)
    written = torch.tensor([[float(row[c]) for c in COLUMNS] for row in found])
    stored = torch.cat([data.store(split).take(torch.arange(len(data.store(split)))) for split in ("train", "test")])
    assert_close(stored[:, :, 0, 0].sort(dim=0).values, written.sort(dim=0).values)
    assert "60 vectors of 3 numbers, 3 classes" in str(data)


def test_arrays_and_a_table_of_the_same_vectors_train_the_same(tmp_path):
    found = rows()
    values = np.array([[float(row[c]) for c in COLUMNS] for row in found], dtype=np.float32)
    words = np.array([row["label"] for row in found])
    groups = np.arange(60) // 4
    for row, group in zip(found, groups.tolist(), strict=True):
        row["group"] = str(group)
    np.savez(tmp_path / "a.npz", features=values, labels=words.astype(int), group=groups)
    one, other = (ready(make(path, folds=4, fold=2)) for path in (write(tmp_path, found), tmp_path / "a.npz"))
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for mine, its in zip(seen(one, getattr(one, name)()), seen(other, getattr(other, name)()), strict=True):
            assert_close(mine, its, rtol=0, atol=0)
    assert one.class_names == other.class_names == ["0", "1", "2"]


def test_groups_stay_whole_and_each_vector_is_tested_on_once(tmp_path):
    found = rows()
    for n, row in enumerate(found):
        row["patient"] = f"p{n % 20}"
    table, tested = write(tmp_path, found), []
    for fold in range(4):
        data = ready(make(table, folds=4, fold=fold, group_column="patient"))
        places = {split: data.splits.places(split) for split in ("train", "test")}
        parts = [places["train"][data._train], places["train"][data._val], places["test"]]
        patients = [{int(n) % 20 for n in part} for part in parts]
        assert all(patients)
        assert not any(a & b for a, b in itertools.combinations(patients, 2))
        tested += places["test"].tolist()
    assert sorted(tested) == list(range(60))


def test_splits_of_the_table_are_used(tmp_path):
    found = rows()
    for n, row in enumerate(found):
        row["split"] = ["train", "valid", "Test", "train"][n % 4]
    data = ready(make(write(tmp_path, found)))
    assert (len(data._train), len(data._val), len(data.store("test"))) == (30, 15, 15)
    assert "15 to validate on (split valid), 15 to test on (split Test)" in str(data)


def test_a_constant_number_stays_finite(tmp_path):
    found = [{**row, "mass": "7"} for row in rows()]
    data = ready(make(write(tmp_path, found)))
    assert all(batch.images.isfinite().all() for batch in seen(data, data.test_dataloader()))
    assert "1 of the numbers are the same in all vectors" in str(data)


def test_vectors_without_labels_are_predicted(tmp_path):
    table = write(tmp_path, rows())
    new = [{name: row[name] for name in reversed(COLUMNS)} for row in rows()[:5]]  # in another order, without labels
    data = make(table, images=str(write(tmp_path, new, "new.csv")))
    data.setup("fit")
    data.setup("predict")
    (batch,) = seen(data, data.predict_dataloader())
    mean, deviation = (torch.tensor(each) for each in data.statistics)
    written = torch.tensor([[float(row[c]) for c in COLUMNS] for row in new])
    assert_close(batch.images[:, :, 0, 0], (written - mean) / deviation)
    assert batch.labels.tolist() == [-1] * 5
    np.save(tmp_path / "new.npy", np.zeros((2, 4), dtype=np.float32))
    data = make(table, images=str(tmp_path / "new.npy"))
    with pytest.raises(InputError, match="vectors of 4 numbers; expected 3"):
        data.setup("predict")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"columns": None}, r"column id has 'x0' in line 2, and 60 cells.*--data.columns"),
        ({}, {"columns": ["lenght"]}, r"no column 'lenght'.*did you mean 'length'"),
        ({"width": ""}, {}, r"column width has '' in line 2"),
        ({"width": "nan"}, {}, r"column width has 'nan'"),
        ({"mass": "1e60"}, {}, r"column mass has '1e60'"),
        ({"label": ""}, {}, r"1 rows have nothing in column label"),
        ({}, {"label_column": "class"}, "no column 'class'"),
        ({}, {"folds": 99}, r"folds=99: the class 0 has only 20 examples"),
        ({}, {"normalization": "per_image"}, "per_image"),
        ({}, {"test_size": 0}, "test_size=0"),
        ({}, {"path": None}, "set --data.path"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path, change, options, message):
    found = rows()
    found[0] |= change
    table = write(tmp_path, found)
    with pytest.raises(InputError, match=message):
        ready(FeatureDataModule(**{"path": str(table), "columns": COLUMNS, "batch_size": 8, **options}))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.zeros((6, 2, 2)), "labels": np.arange(6) % 2}, r"\(6, 2, 2\).*expected \(vectors, numbers"),
        ({"features": np.full((6, 2), np.nan), "labels": np.arange(6) % 2}, "6 vectors hold NaN"),
        ({"features": np.zeros((6, 2)), "labels": np.arange(5) % 2}, "6 images and labels 5"),
        ({"vectors": np.zeros((6, 2))}, r"there are 'vectors'"),
        ({"features": np.zeros((6, 2)), "labels": np.arange(6) % 2, "group": np.zeros(5, int)}, "for each vector"),
    ],
)
def test_arrays_that_cannot_be_trained_on_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        make(tmp_path / "a.npz", columns=None)
