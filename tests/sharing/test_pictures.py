"""Which image files `predict --data.images` means, and what is known of them."""

import csv
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from capsule_lightning.callbacks.predictions import PredictionTable
from capsule_lightning.data import streamed_pictures
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.sharing.pictures import PicturesDataModule, find_pictures
from capsule_lightning.tasks.label_sets import LabelSetTask

NAMES = ["cat", "dog"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures in a folder, in folders of classes, and in folders of other names."""
    for place in ("a.png", "photos/b.png", "photos/c.png", "pets/cat/1.png", "pets/dog/2.png", "zoo/cat/3.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (255, 0, 0)).save(tmp_path / place)
    (tmp_path / "zoo" / "lion").mkdir()
    Image.new("RGB", (6, 5)).save(tmp_path / "zoo" / "lion" / "4.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "paths", "labels"),
    [
        (["a.png"], ["a.png"], [-1]),
        (["photos"], ["photos/b.png", "photos/c.png"], [-1, -1]),
        (["a.png", "photos/c.png"], ["a.png", "photos/c.png"], [-1, -1]),
        (["photos/*.png"], ["photos/b.png", "photos/c.png"], [-1, -1]),
        (["**/[ab].png"], ["a.png", "photos/b.png"], [-1, -1]),
        (["a.png", "a.png", "."], None, None),
        (["pets"], ["pets/cat/1.png", "pets/dog/2.png"], [0, 1]),
        (["zoo"], ["zoo/cat/3.png", "zoo/lion/4.png"], [-1, -1]),  # the lion is no class
        (["pets", "a.png"], ["pets/cat/1.png", "pets/dog/2.png", "a.png"], [0, 1, -1]),
    ],
)
def test_files_folders_patterns_and_class_folders(given: list, paths: list, labels: list, here: Path) -> None:
    found = find_pictures(given, NAMES)
    assert len(set(found.paths)) == len(found.paths)
    if paths is not None:
        assert set(map(str, found.paths)) == set(paths)
        assert dict(zip(map(str, found.paths), found.labels, strict=True)) == dict(zip(paths, labels, strict=True))


@pytest.mark.parametrize("given", ["none.png", "none/", "*.jpg", "empty", "[z].png"])
def test_what_leads_to_no_image_is_named(given: str, here: Path) -> None:
    (here / "empty").mkdir()
    with pytest.raises(InputError) as refused:
        find_pictures(["a.png", given], NAMES)
    assert given.rstrip("/") in str(refused.value)


def test_a_table_lists_pictures_and_what_is_known_of_them(here: Path) -> None:
    rows = "path,label,size\npets/cat/1.png,cat,6\nzoo/lion/4.png,lion,5\nphotos/b.png,,\n"
    (here / "pets" / "list.CSV").write_text(
        rows.replace("\npets/", "\n").replace("\nzoo", "\n../zoo").replace("\nph", "\n../ph")
    )
    found = find_pictures(["pets/list.CSV"], NAMES)
    assert [path.resolve() for path in found.paths] == [here / row.split(",")[0] for row in rows.splitlines()[1:]]
    assert found.labels == [0, -1, -1]
    (here / "list.tsv").write_text("path\tnote\na.png\tfirst\nnone.png\t\n")
    with pytest.raises(InputError, match=r"list.tsv: 1 of 2 images are not there, the first 'none.png' in line 3"):
        find_pictures(["list.tsv"], NAMES)
    (here / "bare.csv").write_text("file\na.png\n")
    with pytest.raises(InputError, match="no column 'path'; it has file"):
        find_pictures(["bare.csv"], NAMES)


def test_pictures_are_scaled_and_normalized_as_the_network_was_trained(here: Path) -> None:
    data = PicturesDataModule(
        NAMES, (3, 4, 4), ["a.png", "pets"], normalization="channel", mean=[0.5] * 3, deviation=[0.25] * 3
    )
    data.setup("predict")
    (stored,) = data.predict_dataloader()
    batch = data.on_after_batch_transfer(stored, 0)
    assert batch.images.shape == (3, 3, 4, 4)
    assert batch.labels.tolist() == [-1, 0, 1]
    assert [data.name_of(n) for n in range(3)] == ["a.png", "pets/cat/1.png", "pets/dog/2.png"]
    torch.testing.assert_close(batch.images[0, :, 0, 0], torch.tensor([2.0, -2.0, -2.0]))


def test_pictures_that_are_streamed_are_those_that_are_read_at_once(here: Path, monkeypatch) -> None:
    made = [PicturesDataModule(NAMES, (3, 4, 4), ["pets", "photos"], batch_size=3) for _ in range(2)]
    made[0].setup("predict")
    monkeypatch.setattr(streamed_pictures, "MOST_HELD", 0)
    made[1].setup("predict")
    assert isinstance(made[1].stores["predict"], streamed_pictures.StreamedFiles)
    at_once, streamed = ([*data.predict_dataloader()] for data in made)
    assert len(streamed) == 2
    for one, other in zip(at_once, streamed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
    assert [made[1].name_of(n) for n in range(4)] == [made[0].name_of(n) for n in range(4)]


@pytest.mark.parametrize("fault", ["no image", "cut short"])
def test_a_file_that_cannot_be_read_is_left_out_of_a_stream_if_it_may_be(here: Path, monkeypatch, fault: str) -> None:
    monkeypatch.setattr(streamed_pictures, "MOST_HELD", 0)
    noise = Image.effect_noise((64, 64), 90)
    noise.save(here / "photos" / "b.png")
    whole = (here / "photos" / "b.png").read_bytes()
    (here / "photos" / "b.png").write_bytes(b"<html>" if fault == "no image" else whole[: len(whole) // 2])
    data = PicturesDataModule(NAMES, (3, 4, 4), ["photos", "a.png"])

    def read() -> None:
        data.setup("predict")
        next(iter(data.predict_dataloader()))

    with pytest.raises(InputError, match=r"b\.png: cannot be read.*skip_damaged true"):
        read()
    data = PicturesDataModule(NAMES, (3, 4, 4), ["photos", "a.png"], skip_damaged=True)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert [*data.damaged] == [0]
    assert batch.inputs.amax(dim=(1, 2, 3)).tolist() == [0, 255, 255]
    for path in ("photos/b.png", "photos/c.png", "a.png"):
        (here / path).write_text("none")
    with pytest.raises(InputError, match="3 image files cannot be read"):
        PicturesDataModule(NAMES, (3, 4, 4), ["photos", "a.png"], skip_damaged=True).setup("predict")


def test_pictures_are_predicted_by_a_network_that_names_any_number_of_classes(here: Path) -> None:
    data = PicturesDataModule(NAMES, (3, 4, 4), ["pets"], num_labels=0)
    encoder = partial(SabourEncoder, channels=2, kernel_size=2, num_types=1, primary_kernel_size=2)
    task = LabelSetTask((3, 4, 4), 2, net=partial(CapsNet, encoder=encoder, decoder=None))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    table = PredictionTable("t.csv", embeddings="e.npz")
    L.Trainer(**quiet, callbacks=[table], default_root_dir=here).predict(task, data)  # type: ignore[arg-type]
    with (here / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["pets/cat/1.png", "pets/dog/2.png"]
    assert {row["label"] for row in rows} == {""}  # a folder has the name of one class, and there may be others
    with np.load(here / "e.npz") as found:
        assert (found["labels"].tolist(), found["classes"].shape) == ([-1, -1], (2, 2))


@pytest.mark.parametrize("stage", ["fit", "test", "validate", None])
def test_pictures_are_for_prediction_alone(stage: str | None, here: Path) -> None:
    with pytest.raises(InputError, match="predict"):
        PicturesDataModule(NAMES, (3, 4, 4), "a.png").setup(stage)
