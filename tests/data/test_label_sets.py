"""Any number of labels an image, and weights: from tables and arrays, split so that each class is everywhere."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from capsule_lightning.data.image_arrays import ImageArrayDataModule
from capsule_lightning.data.image_table import ImageTableDataModule
from capsule_lightning.data.label_sets import padded, present, stratified_parts
from capsule_lightning.errors import InputError

NAMES = ["cat", "dog", "emu", "fox"]
PRESENT = torch.rand(90, 4, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.5, 0.3, 0.15, 0.08])
SETS = [[name for name, here in zip(NAMES, row, strict=True) if here] for row in PRESENT.tolist()]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ninety images, each of a color of its own."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(90):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def write(folder, columns, rows, name="labels.csv"):
    lines = [",".join(map(str, row)) for row in ([*columns], *rows)]
    (folder / name).write_text("\n".join(lines))
    return str(folder / name)


def module(table, **options):
    options = {"label_separator": "|", "batch_size": 8, "val_size": 12, "test_size": 18, **options}
    data = ImageTableDataModule(table, **options)
    data.setup("fit")
    data.setup("test")
    return data


def numbered(data, split):
    """Labels of each image of a split by its number."""
    named = [sorted(data.class_names[n] for n in row if n >= 0) for row in data.store(split).labels.tolist()]
    return dict(zip((int(file.stem) for file in data.files_of(split)), named, strict=True))


def test_a_cell_of_several_labels_and_columns_of_ones_say_the_same(photos):
    cells = write(photos, ["path", "label"], ((f"{n}.png", "| ".join(each)) for n, each in enumerate(SETS)))
    ones = write(
        photos, ["path", *NAMES], ((f"{n}.png", *row) for n, row in enumerate(PRESENT.long().tolist())), "b.csv"
    )
    one, other = module(cells), module(ones, label_separator=None, label_columns=NAMES)
    for data in (one, other):
        assert (data.num_labels, list(data.class_names)) == (0, NAMES)
        found = {**numbered(data, "train"), **numbered(data, "test")}
        assert found == dict(enumerate(SETS))
        assert data.class_counts().tolist() == present(data.store("train").labels[data._train], 4).sum(dim=0).tolist()
    for split in ("train", "test"):
        assert torch.equal(one.store(split).labels, other.store(split).labels)
    assert torch.equal(one._val, other._val)
    assert len(one.store("test")) == pytest.approx(18, abs=2)
    assert [] in SETS


def test_a_column_for_each_class_with_one_in_each_row_is_one_label(photos):
    rows = [(f"{n}.png", *(int(n % 4 == j) for j in range(4))) for n in range(90)]
    table = write(photos, ["path", *NAMES], rows, "one.csv")
    single = module(table, label_separator=None, label_columns=NAMES)
    assert single.num_labels == 1
    assert single.store("train").labels.ndim == 1
    several = module(table, label_separator=None, label_columns=NAMES, several_labels=True)
    assert several.num_labels == 0
    assert several.store("train").labels.shape[1] == 1


def test_rows_without_a_label_are_refused_left_out_or_none_of_the_classes(photos):
    rows = [(f"{n}.png", "" if n % 9 == 0 else NAMES[n % 3]) for n in range(90)]
    table = write(photos, ["path", "label"], rows, "null.csv")
    with pytest.raises(InputError, match=r"10 rows have no label, the first in line 2; .*skip_unlabeled true"):
        module(table, label_separator=None)
    data = module(table, label_separator=None, skip_unlabeled=True)
    files = [int(file.stem) for split in ("train", "test") for file in data.files_of(split)]
    assert sorted(files) == [n for n in range(90) if n % 9]
    assert "10 rows without a label are left out" in str(data)
    assert len(module(table).store("train")) + len(module(table).store("test")) == 90


def test_weights_of_a_table_belong_to_their_images(photos):
    rows = [(f"{n}.png", NAMES[n % 3], n / 10) for n in range(90)]
    data = module(write(photos, ["path", "label", "weight"], rows, "weights.csv"), label_separator=None)
    numbers = torch.tensor([int(file.stem) for file in data.files_of("train")])
    assert_close(data.example_weights(), numbers.double() / 10)
    assert "weights of weight, from 0 to 8.9" in str(data)
    data.train_dataloader()
    assert_close(data.weights_of(data._train).mean(), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("weight", "named"),
    [("heavy", "line 5 has 'heavy' in column weight"), ("-1", "column weight: 1 weights are not"), ("inf", "finite")],
)
def test_weights_that_are_none_are_refused(photos, weight, named):
    rows = [(f"{n}.png", NAMES[n % 3], weight if n == 3 else 1) for n in range(90)]
    with pytest.raises(InputError, match=named):
        module(write(photos, ["path", "label", "weight"], rows, "bad.csv"), label_separator=None)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"balanced": True}, "balanced=true: images of any number of classes"),
        ({"label_separator": ""}, "label_separator='': expected what stands between"),
        ({"label_columns": NAMES}, "expected one of them"),
        ({"label_separator": None, "label_columns": ["cat", "path"]}, "line 2 has '0.png' in column path; expected 1"),
        ({"label_separator": None, "label_columns": ["cat"]}, "expected two columns or more"),
        ({"several_labels": False}, "some rows have several labels, or none"),
        ({"test_size": 2}, r"test_size=2: cannot split .* each class is on both sides"),
        ({"folds": 30}, r"folds=30: fewer examples of a class than folds"),
    ],
)
def test_what_cannot_be_is_refused(photos, options, named):
    rows = [(f"{n}.png", "|".join(each), int("cat" in each)) for n, each in enumerate(SETS)]
    table = write(photos, ["path", "label", "cat"], rows, "faults.csv")
    with pytest.raises(InputError, match=named):
        module(table, **options)


def test_folds_of_label_sets_test_each_image_once_and_keep_groups_together(photos):
    rows = [(f"{n}.png", "|".join(each), f"patient {n // 2}") for n, each in enumerate(SETS)]
    table = write(photos, ["path", "label", "group"], rows, "folds.csv")
    seen = []
    for fold in range(3):
        data = module(table, folds=3, fold=fold)
        tested, trained = ({int(file.stem) // 2 for file in data.files_of(split)} for split in ("test", "train"))
        assert not tested & trained
        seen += [int(file.stem) for file in data.files_of("test")]
    assert Counter(seen) == Counter(range(90))


@pytest.mark.parametrize("seed", [0, 1])
def test_every_class_is_spread_as_the_shares_say(seed):
    shares = [0.5, 0.3, 0.2]
    random = torch.Generator().manual_seed(3)
    classes = (torch.rand(2000, 12, generator=random) < torch.linspace(0.02, 0.4, 12)).long()
    parts = stratified_parts(classes, shares, seed)
    for part, share in enumerate(shares):
        assert (parts == part).float().mean() == pytest.approx(share, abs=0.005)
        of_classes = classes[parts == part].sum(dim=0) / classes.sum(dim=0)
        assert of_classes.tolist() == pytest.approx([share] * 12, abs=0.03)
    assert torch.equal(parts, stratified_parts(classes, shares, seed))
    assert not torch.equal(parts, stratified_parts(classes, shares, seed + 1))


def test_sets_are_rows_and_rows_are_sets():
    sets = [(3, 1), (), (0,), (0, 1, 2)]
    rows = padded(sets, 3)
    assert rows.tolist() == [[1, 3, -1], [-1, -1, -1], [0, -1, -1], [0, 1, 2]]
    assert [row.nonzero()[:, 0].tolist() for row in present(rows, 4)] == [sorted(each) for each in sets]


def arrays(tmp_path, **more):
    path = tmp_path / "pictures.npz"
    pixels = np.arange(90, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    np.savez(path, **{"images": pixels, "labels": PRESENT.numpy().astype(np.int64), **more})
    return str(path)


def test_arrays_of_zeros_and_ones_are_any_number_of_labels(tmp_path):
    path = arrays(tmp_path, weights=np.arange(90) / 10)
    data = ImageArrayDataModule(path, class_names=NAMES, batch_size=8, val_size=12, test_size=18)
    data.setup("fit")
    data.setup("test")
    assert (data.num_labels, list(data.class_names)) == (0, NAMES)
    for split in ("train", "test"):
        store = data.store(split)
        numbers = store.inputs[:, 0, 0, 0].long()
        assert torch.equal(present(store.labels, 4).bool(), PRESENT[numbers])
        if split == "train":
            assert_close(data.example_weights(), numbers.double() / 10)
    assert "weights of images to train on from 0 to 8.9" in str(data)


@pytest.mark.parametrize(
    ("more", "options", "named"),
    [
        ({"weights": np.ones(89)}, {}, r"weights: holds \(89,\) float64; expected a number for each of 90 images"),
        ({"weights": np.full(90, -1.0)}, {}, "90 weights are not finite numbers of 0 or more"),
        ({"weights": np.zeros(90)}, {}, "all weights are 0"),
        ({}, {"class_names": NAMES[:3]}, "3 names for the 4 columns"),
        ({}, {"balanced": True}, "balanced=true"),
        ({"labels": np.arange(90) % 4}, {"several_labels": True}, "has one label for each image"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, more, options, named):
    with pytest.raises(InputError, match=named):
        ImageArrayDataModule(arrays(tmp_path, **more), **options)
