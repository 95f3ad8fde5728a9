"""Tables of labels: what they say is what is trained on, and every fault is named before."""

import csv
import itertools
import random

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.augmentations.geometry import PaddedCrop
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.image_table import ImageTableDataModule
from capsule_lightning.data.label_tables import read_table
from capsule_lightning.data.trained_on import trained_on
from capsule_lightning.errors import InputError

NAMES = ["cat", "dog", "emu"]


@pytest.fixture
def photos(tmp_path, write_tree):
    """Twenty images of each class."""
    write_tree(tmp_path / "photos", NAMES, count=20, shape=(6, 6, 3))
    return tmp_path / "photos"


def listed(photos):
    """A row for each image, in the order in which a folder is read."""
    return [
        {"path": path.relative_to(photos).as_posix(), "label": path.parent.name}
        for path in sorted(photos.rglob("*.png"))
    ]


def write(folder, rows, name="labels.csv", delimiter=","):
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def make(table, cls=ImageTableDataModule, **options):
    where = {"table": str(table)} if cls is ImageTableDataModule else {"root": str(table)}
    return cls(**where, batch_size=6, seed=3, **options)


def batches(data, epochs=2):
    """All that a run gets to see: training of some epochs, validation, test."""
    data.setup("fit")
    data.setup("test")
    train = data.train_dataloader()
    loaders = [train] * epochs + [data.val_dataloader(), data.test_dataloader()]
    return [data.on_after_batch_transfer(batch, 0) for loader in loaders for batch in loader]


@pytest.mark.parametrize("options", [{}, {"folds": 4, "fold": 2}])
def test_a_table_trains_as_the_folder_that_it_lists(photos, options):
    options |= {"augmentation": lambda: PaddedCrop(padding=1), "normalization": "channel"}
    folder = batches(make(photos, ImageFolderDataModule, **options))
    rows = listed(photos)
    random.Random(0).shuffle(rows)  # their order decides nothing
    table = batches(make(write(photos, rows), **options))
    assert len(folder) == len(table) > 15
    for mine, its in zip(table, folder, strict=True):
        assert_close(mine, its, rtol=0, atol=0)


def test_splits_of_the_table_are_used_under_any_of_their_names(photos):
    rows = listed(photos)
    for number, row in enumerate(rows):
        row["split"] = ["train", "Training", "valid", "Test"][number % 4]
    data = make(write(photos, rows))
    data.setup("fit")
    data.setup("test")
    files = data.files_of("train")
    found = {
        "train": {files[n].as_posix() for n in data._train},
        "valid": {files[n].as_posix() for n in data._val},
        "test": {file.as_posix() for file in data.files_of("test")},
    }
    for name, part in found.items():
        assert part == {row["path"] for row in rows if row["split"].lower().startswith(name)}
    assert "splits of split" in str(data)
    assert "15 to validate on (split valid), 15 to test on" in str(data)


@pytest.mark.parametrize("options", [{}, {"folds": 3, "fold": 1}])
def test_a_group_is_in_one_split(photos, options):
    rows = listed(photos)
    for number, row in enumerate(rows):
        row["patient"] = f"p{number % 12}"
    data = make(write(photos, rows), group_column="patient", val_size=0.2, **options)
    data.setup("fit")
    data.setup("test")
    patient, files = {row["path"]: row["patient"] for row in rows}, data.files_of("train")
    parts = [
        {patient[files[n].as_posix()] for n in data._train},
        {patient[files[n].as_posix()] for n in data._val},
        {patient[file.as_posix()] for file in data.files_of("test")},
    ]
    assert all(parts)
    assert not any(one & other for one, other in itertools.combinations(parts, 2))
    assert set().union(*parts) == set(patient.values())
    assert "12 groups of patient, each in one split" in str(data)


def test_each_image_is_tested_on_in_one_fold(photos):
    table, tested = write(photos, listed(photos)), []
    for fold in range(5):
        data = make(table, folds=5, fold=fold)
        data.setup("test")
        tested += data.files_of("test")
        assert data.stores["test"].labels.bincount().tolist() == [4, 4, 4]
        assert f"(--data.fold {fold} of --data.folds 5)" in str(data)
    assert sorted(file.as_posix() for file in tested) == [row["path"] for row in listed(photos)]


def test_other_labels_of_the_same_files_are_heeded(photos):
    rows = listed(photos)
    first = make(write(photos, rows))
    first.prepare_data()
    for row in rows:
        row["label"] = {"cat": "2", "dog": "10", "emu": "2"}[row["label"]]
    again = make(write(photos, rows))
    again.prepare_data()
    assert again.class_names == ["2", "10"]
    labels = torch.cat([again.load(split).labels for split in ("train", "test")])
    assert labels.bincount().tolist() == [40, 20]
    of_file = dict(zip(map(str, again.files_of("test")), again.load("test").labels.tolist(), strict=True))
    assert all((label == 1) == path.startswith("dog") for path, label in of_file.items())


@pytest.mark.parametrize(("name", "delimiter"), [("labels.tsv", "\t"), ("labels.csv", ";"), ("l\xe4bels.txt", ",")])
def test_other_delimiters_columns_and_folders(photos, tmp_path, name, delimiter):
    rows = [{"x": "1", "Image File": row["path"], "class": row["label"]} for row in listed(photos)]
    (tmp_path / "elsewhere").mkdir()
    table = write(tmp_path / "elsewhere", rows, name, delimiter)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes() + b"\r\n\r\n")  # as spreadsheets do
    data = make(table, root=str(photos), path_column="Image File", label_column="class")
    assert data.class_names == NAMES
    assert len(data.load("train").images) + len(data.load("test").images) == 60


def test_a_parquet_file_is_read_as_the_same_table(photos):
    arrow = pytest.importorskip("pyarrow")
    rows = listed(photos)
    columns = {name: [row[name] for row in rows] for name in rows[0]} | {"size": [None, *range(59)]}
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), photos / "labels.parquet")
    found = read_table(photos / "labels.parquet")
    assert found.column("label", "label_column") == [row["label"] for row in rows]
    assert found.rows[0][2] == ""
    assert found.rows[3][2] == "2"
    assert make(photos / "labels.parquet").class_names == NAMES


def text(content):
    return lambda folder: (folder / "labels.csv").write_bytes(content.encode())


def rows_changed(change):
    def edit(folder):
        rows = listed(folder)
        change(rows)
        write(folder, rows)

    return edit


def each(**cells):
    def change(rows):
        for number, row in enumerate(rows):
            row |= {name: cell[number % len(cell)] for name, cell in cells.items()}

    return change


def at(number, **cells):
    return lambda rows: rows[number].update(cells)


@pytest.mark.parametrize(
    ("harm", "options", "expected"),
    [
        (lambda folder: None, {}, r"labels.csv: cannot be read \(no such file"),
        (text(""), {}, "has no rows"),
        (text("path,label\n"), {}, "has no rows"),
        (text("path,label,path\na,b,c\n"), {}, "two columns are called path"),
        (text("file,label\na.png,b\n"), {}, r"no column 'path'; it has file, label.*--data.path_column"),
        (text("path,label\na.png,b,c\n"), {}, "line 2 has 3 cells, and the first line names 2 columns"),
        (text('path,label\n"a.png,b\n'), {}, "line 2 cannot be read"),
        (lambda folder: (folder / "labels.csv").write_bytes(b"path,label\n\xff,a\n"), {}, "not text in UTF-8"),
        (lambda folder: (folder / "labels.csv").mkdir(), {}, "cannot be read .*folder"),
        (rows_changed(at(2, label=" ")), {}, "1 rows have no label, the first in line 4.*skip_unlabeled true"),
        (rows_changed(at(2, path="gone.png")), {}, r"1 of 60 images are not there, the first gone.png .*\(line 4\)"),
        (rows_changed(at(2, path="/etc/hostname")), {}, "1 images lie outside of .*such as /etc/hostname"),
        (rows_changed(at(2, path="../photos2/a.png")), {}, "1 images lie outside of"),
        (rows_changed(at(2, path="./cat/../cat/0.png")), {}, "1 rows name an image that another row names.*cat/0.png"),
        (rows_changed(at(2, path="a\0b")), {}, "1 of 60 images are not there"),
        (rows_changed(each(split=["train", "holdout"])), {}, "line 3 says 'holdout' in column split; expected one of"),
        (rows_changed(each(split=["test"])), {}, "no row of column split says train"),
        (rows_changed(each(split=["train"] * 40 + ["test"] * 20)), {}, "test have labels that none to train on.*: emu"),
        (rows_changed(each(split=["train", "test"], group=["a"])), {}, "1 groups of column group are in more than one"),
        (
            rows_changed(each(split=["train", "test"])),
            {"folds": 3},
            "folds=3: these data have test images of their own",
        ),
        (rows_changed(each(label=["a"])), {}, "only the class a; expected two"),
        (rows_changed(each(group=["a", "b", "c"])), {"folds": 5}, "folds=5: the class cat has only 3 groups"),
        (rows_changed(lambda rows: None), {"folds": 21}, "folds=21: the class cat has only 20 examples"),
        (rows_changed(lambda rows: None), {"folds": 1}, "folds=1: expected at least 2"),
        (rows_changed(lambda rows: None), {"folds": 3, "fold": 3}, "fold=3: expected 0 to 2"),
        (rows_changed(lambda rows: None), {"fold": 1}, "fold=1 without effect: set --data.folds"),
        (rows_changed(lambda rows: None), {"group_column": "grp"}, "no column 'grp'"),
    ],
)
def test_faults_are_named(photos, harm, options, expected):
    harm(photos)
    with pytest.raises(InputError, match=expected):
        make(photos / "labels.csv", **options).prepare_data()


def test_a_run_goes_on_with_its_split_when_rows_are_added(photos, write_image):
    rows = listed(photos)
    data = make(write(photos, rows[:-6]))
    data.setup("fit")
    state, files = data.state_dict(), data.files_of("train")
    before = {files[n] for n in data._val}
    again = make(write(photos, rows))
    again.setup("fit")
    again.load_state_dict(state)
    files = again.files_of("train")
    assert {files[n] for n in again._val} == before
    assert len(files) == len(data.files_of("train"))


def test_more_than_asked_for_is_held_out_where_groups_demand_it(photos):
    rows = listed(photos)
    for number, row in enumerate(rows):
        row["group"] = f"{row['label']}{number % 4}"  # four groups of five images in each class
    data = make(write(photos, rows), val_size=0.1)
    data.setup("fit")
    files = data.files_of("train")
    held_out = [files[n].parts[0] for n in data._val]
    assert set(held_out) == set(NAMES)
    for row in rows:
        row["group"] = "one" if row["label"] == "cat" else row["path"]
        row["split"] = "test" if row["path"] in ("dog/1.png", "emu/1.png") else "train"
    data = make(write(photos, rows))
    with pytest.raises(InputError, match=r"val_size=0.1: the groups cannot be split .*\(not so cat\)"):
        data.setup("fit")


def test_what_a_network_keeps_of_its_data_names_no_place(photos):
    data = make(write(photos, listed(photos)))
    data.setup("fit")
    assert str(photos) not in repr(trained_on(data).plain())
