"""What `predict` writes and prints."""

import csv
import io
from types import SimpleNamespace

import numpy as np
import pytest

from capsule_lightning.callbacks import collected
from capsule_lightning.callbacks.predictions import Row, arrays, shown, strangeness, table
from capsule_lightning.data.trained_on import TrainedOn
from capsule_lightning.errors import InputError
from capsule_lightning.runs.results import require_not_of_a_run, require_place

NAMES = ["cat", "dog"]


def row(number: int, label: int = -1, predicted: int = 1, brightness: float = 0.1, poses: bool = True) -> Row:
    lengths = [0.25, 0.75]
    return Row(
        number, [label], [predicted], lengths[predicted], 1.5, brightness, lengths, np.ones((2, 3)) if poses else None
    )


def test_the_first_predictions_are_printed_and_the_others_counted() -> None:
    rows = [row(n) for n in range(23)]
    lines = shown(rows, [f"{n}.png" for n in range(23)], NAMES)
    assert lines[0] == "0.png   dog (0.75)"
    assert lines[19] == "19.png  dog (0.75)"
    assert lines[20:] == ["... and 3 more"]


def test_accuracy_is_of_the_images_whose_labels_are_known() -> None:
    lines = shown([row(0, 1), row(1, 0), row(2), row(3, 1)], list("abcd"), NAMES)
    assert lines[-1] == "accuracy: 66.67 % (2 of 3)"
    assert not any("accuracy" in line for line in shown([row(0)], ["a"], NAMES))


def test_the_table_is_read_back() -> None:
    found = list(csv.DictReader(io.StringIO(table([row(0, 0), row(1)], ["a,b.png", 'c".png'], NAMES))))
    assert [each["image"] for each in found] == ["a,b.png", 'c".png']
    assert [each["label"] for each in found] == ["cat", ""]
    assert found[0]["length_dog"] == "0.75"


def test_arrays_need_no_pickle(tmp_path) -> None:
    np.savez(tmp_path / "poses.npz", **arrays([row(0, 0), row(1)], ["a.png", "bé.png"], NAMES))
    with np.load(tmp_path / "poses.npz", allow_pickle=False) as found:
        assert found["names"].tolist() == ["a.png", "bé.png"]
        assert found["class_names"].tolist() == NAMES
        assert found["labels"].tolist() == [0, -1]
        assert found["classes"].tolist() == [1, 1]
        assert found["lengths"].tolist() == [[0.25, 0.75]] * 2
        assert found["poses"].shape == (2, 2, 3)
    assert "poses" not in arrays([row(0, poses=False)], ["a"], NAMES)


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
    (line,) = strangeness([row(n, brightness=each) for n, each in enumerate(brightness)], known)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    "known", [None, TrainedOn("a", NAMES, [1, 4, 4]), TrainedOn("a", NAMES, [1, 4, 4], brightness=(0.1, 0.1))]
)
def test_nothing_is_said_of_usual_images_or_if_it_is_not_known(known: TrainedOn | None) -> None:
    assert strangeness([row(0), row(1)], known) == []


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
