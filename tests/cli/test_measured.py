"""Which network and which data a command is about, and what a training may begin from."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from capsule_lightning.cli.configs import resolve
from capsule_lightning.cli.measured import (
    TABLE,
    for_predict,
    pictures_slot,
    take_weights,
    with_network,
    with_pictures,
    with_texts,
)
from capsule_lightning.cli.words import read_words
from capsule_lightning.data.trained_on import TrainedOn
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.uniform import UniformRouting
from capsule_lightning.runs.checkpoint_files import VERSION
from capsule_lightning.tasks.classification import ClassificationTask

ENCODER = partial(SabourEncoder, channels=4, kernel_size=3, num_types=2, primary_kernel_size=3)
NET = partial(CapsNet, encoder=ENCODER, routing=UniformRouting, decoder=None)
DIGITS = {"class_path": "capsule_lightning.data.digits.DigitsDataModule", "init_args": {}}


def saved(path: Path, task: ClassificationTask, **more: object) -> str:
    """A checkpoint as far as its network goes."""
    torch.save({"state_dict": task.state_dict(), VERSION: "2.6", **more}, path)
    return str(path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("predict a.ckpt --data.images x.png", {"ckpt_path": "a.ckpt", "data.images": "x.png"}),
        ("predict --data.images x.png y.png --poses p.npz", {"data.images": '["x.png", "y.png"]', "poses": "p.npz"}),
        ("predict --data.images x.png y.png -c mnist", {"data.images": '["x.png", "y.png"]'}),
        ("test last", {"ckpt_path": "last"}),
        ("test best --ckpt_path other", {"ckpt_path": "other"}),
        ("predict a.ckpt --overwrite", {"ckpt_path": "a.ckpt", "overwrite": "true"}),
    ],
)
def test_the_network_may_come_first_and_images_may_be_several(words: str, expected: dict) -> None:
    assert dict(read_words(words.split()).options) == expected


def test_modules_of_ones_own_are_named_apart() -> None:
    assert read_words(["test", "a", "--import", "one", "--import", "two.three"]).imports == ["one", "two.three"]


def test_one_picture_or_several_are_read_by_the_parser() -> None:
    about = TrainedOn("a", list("xy"), [1, 8, 8], [1, 8, 8], 0, slot={**DIGITS, "init_args": {"batch_size": 7}})
    base = {"data": pictures_slot(about, "a.ckpt")}
    for words, expected in (("x.png", "x.png"), ("x.png y,[z].png", ["x.png", "y,[z].png"])):
        given = read_words(["predict", "--data.images", *words.split()])
        data = resolve(given, base)["data"]["init_args"]
        assert data["images"] == expected
        assert (data["batch_size"], data["class_names"], data["num_labels"]) == (7, ["x", "y"], 0)


@pytest.mark.parametrize(
    "planted",
    [
        {"class_path": "os.system", "init_args": {"command": "touch trace"}},
        {"class_path": "antigravity.x"},
        {"class_path": "capsule_lightning.data.digits.DigitsDataModule"},
        {"class_path": "capsule_lightning.augmentations.geometry.Shift", "init_args": {"pixels": "/etc/passwd"}},
    ],
)
def test_a_checkpoint_from_elsewhere_names_augmentations_alone(planted: dict) -> None:
    about = TrainedOn("a", list("xy"), [1, 8, 8], [1, 8, 8], slot={**DIGITS, "init_args": {"augmentation": planted}})
    with pytest.raises(InputError, match=r"^a\.ckpt: its images cannot be prepared"):
        pictures_slot(about, "a.ckpt")


@pytest.mark.parametrize("known", [True, False])
def test_pictures_for_a_network_of_several_objects_are_refused(known: bool, tmp_path: Path) -> None:
    about = TrainedOn("multimnist", list("xy"), [1, 8, 8], [1, 8, 8], num_labels=2)
    path = saved(
        tmp_path / "a.ckpt", ClassificationTask((1, 8, 8), 3, NET), **({"trained_on": about.plain()} if known else {})
    )
    base = {"data": {"class_path": "MultiMNISTDataModule"}}
    with pytest.raises(InputError, match=r"data\.images=x\.png: .*several objects") as refused:
        with_pictures(read_words(["predict", "--data.images", "x.png"]), base, path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "data", "other", "let"),
    [
        ("--data.images in.txt", "TextDataModule", "--data.texts", with_pictures),
        ("--data.images in.txt", "TranslationDataModule", "--data.texts", with_pictures),
        ("--data.texts x.png", "DigitsDataModule", "--data.images", with_texts),
    ],
)
def test_texts_for_a_network_of_images_name_the_other_option_and_the_other_way_round(
    words: str, data: str, other: str, let: Callable[..., object], tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.ckpt", ClassificationTask((1, 8, 8), 3, NET))
    option, value = words.removeprefix("--").split()
    with pytest.raises(InputError) as refused:
        let(read_words(["predict", *words.split()]), {"data": {"class_path": data}}, path)
    assert f"{option}={value}" in str(refused.value)
    assert str(refused.value).endswith(other)


@pytest.mark.parametrize("word", ["--embeddings", "--poses"])  # the second as it was called before
def test_predict_has_its_table_and_no_logger_unless_asked(word: str) -> None:
    given = read_words(["predict", "--output", "t.csv", word, "p.npz"])
    config = for_predict(resolve(given), given)
    assert config["trainer"]["logger"] is False
    (table,) = [each for each in config["trainer"]["callbacks"] if each["class_path"] == TABLE]
    assert table["init_args"] == {"output": "t.csv", "embeddings": "p.npz", "overwrite": False}
    given = read_words(["predict", "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "x"])
    assert for_predict(resolve(given), given)["trainer"]["logger"]


def test_the_network_that_a_name_means_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a" / "one" / "checkpoints").mkdir(parents=True)
    last = "runs/a/one/checkpoints/last.ckpt"
    Path(last).touch()
    (tmp_path / "runs" / "a" / "one" / "config.yaml").touch()
    for name, said in ((last, ""), ("last", f"network: {last}\n")):
        assert with_network(read_words(["test", "--ckpt_path", name])).option("ckpt_path") == last
        assert capsys.readouterr().out == said


def test_data_that_are_chosen_need_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="test needs a trained network"):
        with_network(read_words(["test", "--config", "digits"]))
    given = read_words(["test", "efficient_capsnet_mnist"])
    assert with_network(given) == given


def test_training_begins_from_what_fits_of_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained, task = ClassificationTask((1, 8, 8), 10, NET), ClassificationTask((1, 8, 8), 3, NET)
    before = task.net.routing.weight.clone()
    take_weights(saved(tmp_path / "a.ckpt", trained), task)
    for name, value in trained.net.encoder.state_dict().items():
        assert torch.equal(task.net.encoder.state_dict()[name], value)
    assert torch.equal(task.net.routing.weight, before)
    assert all(parameter.requires_grad for parameter in task.parameters())
    said = capsys.readouterr().out
    taken = sum(p.numel() for p in trained.net.encoder.parameters())
    assert said.startswith(f"init_from: {taken:,} of ")
    assert "of another shape, begin anew: routing.weight (8, 10, 16, 8) for (8, 3, 16, 8)" in said


def test_what_is_only_in_one_of_the_two_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_decoder = partial(CapsNet, encoder=ENCODER, routing=UniformRouting)
    one, other = ClassificationTask((1, 8, 8), 3, NET), ClassificationTask((1, 8, 8), 3, with_decoder)
    take_weights(saved(tmp_path / "one.ckpt", one), other)
    assert "not in it, begin anew: decoder" in capsys.readouterr().out
    take_weights(saved(tmp_path / "other.ckpt", other), one)
    assert "only in it, left out: decoder" in capsys.readouterr().out
    for name, value in one.net.state_dict().items():
        assert torch.equal(other.net.state_dict()[name], value)


@pytest.mark.parametrize("name", ["none.ckpt", "none.safetensors", "efficient_capsnet_mnis", "efficient_capsnet_mnist"])
def test_a_network_that_is_not_there_or_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    task = ClassificationTask((1, 8, 8), 3, partial(NET, dim=5))
    before = {name: value.clone() for name, value in task.state_dict().items()}
    with pytest.raises(InputError, match=name):
        take_weights(name, task)
    assert all(torch.equal(task.state_dict()[name], value) for name, value in before.items())
