"""What `predict` writes and prints."""

import csv
import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from forked import start
from PIL import Image
from trained import fit

from capsule_lightning.callbacks import collected, prediction_files
from capsule_lightning.callbacks.prediction_files import CSVTable, EmbeddingsFile, ParquetTable, PredictionFile, Row
from capsule_lightning.callbacks.predictions import Summary, strangeness
from capsule_lightning.data.label_tables import read_table
from capsule_lightning.data.trained_on import TrainedOn
from capsule_lightning.errors import InputError
from capsule_lightning.runs.results import require_not_of_a_run, require_place

NAMES = ["cat", "dog"]


def row(number: int, label: int = -1, predicted: int = 1) -> Row:
    lengths = [0.25, 0.75]
    return Row(number, [label], [predicted], lengths[predicted], 1.5, 0.1, lengths, np.ones((2, 3), dtype=np.float32))


def told(rows: list[Row], names: list[str]) -> list[str]:
    summary = Summary()
    for first in range(0, len(rows), 2):  # two a batch
        summary.add(rows[first : first + 2], names[first : first + 2])
    return summary.lines(NAMES)


def test_the_first_predictions_are_printed_and_the_others_counted() -> None:
    lines = told([row(n) for n in range(23)], [f"{n}.png" for n in range(23)])
    assert lines[0] == "0.png   dog (0.75)"
    assert lines[19] == "19.png  dog (0.75)"
    assert lines[20:] == ["... and 3 more"]


def test_accuracy_is_of_the_images_whose_labels_are_known() -> None:
    lines = told([row(0, 1), row(1, 0), row(2), row(3, 1)], list("abcd"))
    assert lines[-1] == "accuracy: 66.67 % (2 of 3)"
    assert not any("accuracy" in line for line in told([row(0)], ["a"]))


ROWS = [row(0, 0), row(1)._replace(error=None), row(2, 1)]
SURE = [each._replace(probability=0.5, likely=likely) for each, likely in zip(ROWS, ([0, 1], [], [1]), strict=True)]
FILES = ["a,b.png", 'c".png', "bé.png"]


def written(kind: type[PredictionFile], path: Path, rows: list[Row] = ROWS) -> Path:
    """Write the first two rows, and then the third."""
    file = kind(path, NAMES)
    file.add(rows[:2], FILES[:2])
    assert not path.exists()
    file.add(rows[2:], FILES[2:])
    file.finish()
    return path


def test_the_table_is_read_back(tmp_path) -> None:
    with written(CSVTable, tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [each["image"] for each in found] == FILES
    assert [each["label"] for each in found] == ["cat", "", "dog"]
    assert [each["reconstruction_error"] for each in found] == ["1.5", "", "1.5"]
    assert found[0]["length_dog"] == "0.75"
    assert "set" not in found[0]
    with written(CSVTable, tmp_path / "sure.csv", SURE).open(newline="", encoding="utf-8") as file:
        assert [each["set"] for each in csv.DictReader(file)] == ["cat, dog", "", "dog"]


def test_examples_are_called_what_they_are(tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for kind in (CSVTable, ParquetTable):
        file = kind(tmp_path / kind.__name__, NAMES, example="sentence")
        file.add(ROWS, FILES)
        file.finish()
    with (tmp_path / "CSVTable").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    for names in (rows[0].keys(), parquet.read_table(tmp_path / "ParquetTable").column_names):
        assert next(iter(names)) == "sentence"
        assert "image" not in names
    assert [row["sentence"] for row in rows] == FILES


@pytest.mark.parametrize("cells", [1, 10**6])
def test_a_parquet_table_is_read_back_with_its_types(tmp_path, monkeypatch, cells: int) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(prediction_files, "_MOST_CELLS", cells)
    found = parquet.read_table(written(ParquetTable, tmp_path / "t.parquet", SURE))
    assert found.to_pydict() == {
        "image": FILES,
        "label": ["cat", None, "dog"],
        "prediction": ["dog"] * 3,
        "confidence": [0.75] * 3,
        "reconstruction_error": [1.5, None, 1.5],
        "probability": [0.5] * 3,
        "set": [["cat", "dog"], [], ["dog"]],
        "length_cat": [0.25] * 3,
        "length_dog": [0.75] * 3,
    }
    table = read_table(tmp_path / "t.parquet")  # as any table of this package
    assert table.column("prediction", "label_column") == ["dog"] * 3


def test_parquet_without_pyarrow_is_told_with_its_remedy(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"capsule_lightning\[parquet\].*\.csv"):
        ParquetTable(tmp_path / "t.parquet", NAMES)
    assert not [*tmp_path.iterdir()]


def test_arrays_are_read_back_without_pickle(tmp_path) -> None:
    poses = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    rows = [each._replace(poses=pose) for each, pose in zip(ROWS, poses, strict=True)]
    with np.load(written(EmbeddingsFile, tmp_path / "e.npz", rows), allow_pickle=False) as found:
        assert found["names"].tolist() == FILES
        assert found["class_names"].tolist() == NAMES
        assert found["labels"].tolist() == [0, -1, 1]
        assert found["classes"].tolist() == [1, 1, 1]
        assert found["lengths"].dtype == np.float32
        assert found["lengths"].tolist() == [[0.25, 0.75]] * 3
        assert found["poses"].dtype == np.float32
        np.testing.assert_array_equal(found["poses"], poses)
    bare = written(EmbeddingsFile, tmp_path / "bare.npz", [each._replace(poses=None) for each in ROWS])
    with np.load(bare) as found:
        assert "poses" not in found
    several = [each._replace(labels=[0, 1], classes=[1, 0]) for each in ROWS]
    with np.load(written(EmbeddingsFile, tmp_path / "several.npz", several)) as found:
        assert found["labels"].tolist() == [[0, 1]] * 3


@pytest.mark.parametrize("kind", [CSVTable, ParquetTable, EmbeddingsFile])
def test_a_file_that_is_abandoned_or_fails_leaves_its_place_as_it_was(kind, tmp_path) -> None:
    if kind is ParquetTable:
        pytest.importorskip("pyarrow.parquet")
    place = tmp_path / "there"
    place.write_text("before")
    file = kind(place, NAMES, overwrite=True)
    file.add(ROWS, FILES)
    file.abandon()
    file = kind(place, NAMES, overwrite=True)
    file.add(ROWS, FILES)
    file.file.close()
    with pytest.raises(ValueError, match="closed"):
        file.finish() if kind is not CSVTable else file.add(ROWS, FILES)
    assert place.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_full_disk_is_one_line_with_the_place(tmp_path) -> None:
    file = CSVTable(tmp_path / "t.csv", NAMES)

    def full(_: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file.file = SimpleNamespace(write=full)
    with pytest.raises(InputError, match=r"t\.csv: cannot be written \(No space left on device\).*--output"):
        file.add(ROWS, FILES)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("brightness", "usual", "expected"),
    [
        (
            [0.87, 0.85],
            (0.13, 0.04),
            "2 of 2 images are far brighter than the training images; inverted? --data.invert",
        ),
        ([0.1, 0.87], (0.13, 0.04), "1 of 2 images are far brighter"),
        ([0.1, 0.12], (0.9, 0.04), "2 of 2 images are far darker than the training images; inverted?"),
        ([0.95, 0.5], (0.5, 0.05), "1 of 2 images are far brighter than the training images; their predictions"),
    ],
)
def test_images_unlike_those_of_training_are_said(brightness: list, usual: tuple, expected: str) -> None:
    known = TrainedOn("a", NAMES, [1, 4, 4], brightness=usual)
    (line,) = strangeness(brightness, known)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    "known", [None, TrainedOn("a", NAMES, [1, 4, 4]), TrainedOn("a", NAMES, [1, 4, 4], brightness=(0.1, 0.1))]
)
def test_nothing_is_said_of_usual_images_or_if_it_is_not_known(known: TrainedOn | None) -> None:
    assert strangeness([0.1, 0.1], known) == []


@pytest.mark.parametrize("name", ["metrics.csv", "confusion.csv", "report_probe.csv", "figures/x.csv"])
def test_a_file_of_a_run_is_never_written_over(name: str, tmp_path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "figures").mkdir()
    (tmp_path / name).touch()
    with pytest.raises(InputError, match="is a file of the run"):
        require_not_of_a_run(tmp_path / name)
    require_not_of_a_run(tmp_path / "new.csv")
    (tmp_path / "predict").mkdir()
    (tmp_path / "predict" / "predictions.csv").touch()
    require_not_of_a_run(tmp_path / "predict" / "predictions.csv")


def test_a_link_into_a_run_is_followed(tmp_path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "metrics.csv"):
        (run / name).touch()
    (tmp_path / "link.csv").symlink_to(run / "metrics.csv")
    with pytest.raises(InputError, match="is a file of the run"):
        require_not_of_a_run(tmp_path / "link.csv")


def test_places_that_cannot_be_written_are_refused_with_the_option(tmp_path) -> None:
    (tmp_path / "a.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"a\.csv exists.*--poses.*--overwrite"):
        require_place(tmp_path / "a.csv", False, "--poses")
    require_place(tmp_path / "a.csv", True)
    with pytest.raises(InputError, match="is a folder"):
        require_place(tmp_path / "folder.csv", True)
    with pytest.raises(InputError, match="no such folder"):
        require_place(tmp_path / "no" / "a.csv", True)


def test_rows_of_all_processes_come_together(monkeypatch):
    def gather(parts, rows):
        parts[:] = [["of another"], rows]

    monkeypatch.setattr(collected.distributed, "all_gather_object", gather)
    assert collected.of_all_processes(SimpleNamespace(world_size=2), ["mine"]) == ["of another", "mine"]
    assert collected.of_all_processes(SimpleNamespace(world_size=1), ["mine"]) == ["mine"]


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the memory of a process is read as Linux tells it")
def test_twenty_thousand_images_are_predicted_in_less_than_a_gigabyte(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.jpg")
    net = ("--model.net.encoder.channels=4", "--model.net.encoder.num_types=1", "--model.net.decoder=null")
    data = ("--data.root=photos", "--data.image_size=[64,64]", "--data.storage=memory")
    checkpoint = fit(tmp_path, "--config=image_folder.yaml", *data, *net)
    (tmp_path / "many").mkdir()
    made = sorted((tmp_path / "photos").rglob("*.jpg"))
    for number in range(20_000):  # their pixels take 246 MB as bytes, and 983 MB as the network sees them
        os.link(made[number % len(made)], tmp_path / "many" / f"{number:05d}.jpg")
    places = ("--output=t.csv", "--embeddings=e.npz", "--trainer.accelerator=cpu")
    noted = "--trainer.callbacks+=memory_noted.NotesMemory"
    words = ("predict", f"--ckpt_path={checkpoint}", "--data.images=many", "--data.batch_size=64", *places, noted)
    process = start(tmp_path, *words)
    process.join(1200)
    assert process.exitcode == 0, (tmp_path / "output.txt").read_text()[-3000:]
    assert int((tmp_path / "memory.txt").read_text()) < 2**29  # half of what is promised
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).stem for row in rows] == [f"{number:05d}" for number in range(20_000)]
    with np.load(tmp_path / "e.npz") as found:
        lengths = [[float(row[f"length_{name}"]) for name in NAMES] for row in rows]
        np.testing.assert_allclose(found["lengths"], lengths, atol=1e-6)
        assert found["poses"].shape == (20_000, 2, 16)
        same = found["lengths"].reshape(-1, len(made), 2)  # of the same files again and again
        np.testing.assert_allclose(same, np.broadcast_to(same[0], same.shape), atol=1e-5)
