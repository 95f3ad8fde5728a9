"""What the callbacks leave behind where images have two labels, and where they have one."""

import csv
from functools import partial

import lightning as L
import pytest
import torch
from PIL import Image

from capsule_lightning.callbacks import figures
from capsule_lightning.callbacks.confusion import ConfusionFigure
from capsule_lightning.callbacks.predictions import PredictionTable
from capsule_lightning.callbacks.reconstructions import ReconstructionFigures
from capsule_lightning.callbacks.two_digits import TwoDigitFigures
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.multimnist import MultiMNISTDataModule
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.encoders.efficient import EfficientEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.self_attention import SelfAttentionRouting
from capsule_lightning.tasks.classification import ClassificationTask
from capsule_lightning.tasks.multilabel import MultiLabelTask

pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainer: few workers

ALL = (ReconstructionFigures, TwoDigitFigures, ConfusionFigure, PredictionTable)
SMALL = partial(
    CapsNet,
    encoder=partial(EfficientEncoder, channels=(4, 8), kernel_sizes=(3, 3), strides=(2, 1)),
    routing=SelfAttentionRouting,
    decoder=partial(DenseDecoder, hidden=(8,)),
)


def trainer(folder, callbacks, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, enable_checkpointing=False, callbacks=callbacks, **quiet, **options)


def pairs(num_labels=2, net=SMALL):
    return MultiLabelTask((1, 36, 36), 10, net=net, num_labels=num_labels), MultiMNISTDataModule(fake=True, val_size=50)


def singles():
    return ClassificationTask((1, 8, 8), 10, net=SMALL), DigitsDataModule(fake=True, val_size=50)


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_test_of_pairs_leaves_their_figures_alone(tmp_path):
    trainer(tmp_path, [make() for make in ALL]).test(*pairs(), verbose=False)
    assert files(tmp_path) == {"figures/test_reconstructions.png", "figures/test_wrong.png"}
    with Image.open(tmp_path / "figures" / "test_reconstructions.png") as image:
        red, green, blue = (channel.getextrema() for channel in image.convert("RGB").split())
        assert min(red[1] - red[0], green[1] - green[0], blue[1] - blue[0]) > 200


@pytest.mark.parametrize(
    ("callback", "make"),
    [
        (ReconstructionFigures, pairs),
        (TwoDigitFigures, singles),
        (TwoDigitFigures, partial(pairs, net=partial(SMALL, decoder=None))),
    ],
    ids=["pairs", "singles", "no decoder"],
)
def test_steps_aside_for_other_tasks(tmp_path, callback, make):
    task, data = make()
    run = trainer(tmp_path, [callback()])
    run.test(task, datamodule=data, verbose=False)
    run.predict(task, datamodule=data)
    assert not files(tmp_path)


def test_single_digits_have_the_figures_they_had(tmp_path):
    trainer(tmp_path, [make() for make in ALL]).test(*singles(), verbose=False)
    assert files(tmp_path) == {
        "figures/test_reconstructions.png",
        "figures/test_wrong.png",
        "figures/test_confusion.png",
        "confusion.csv",
    }


@pytest.mark.parametrize("make", [pairs, singles])
def test_predictions_agree_with_the_test(tmp_path, make):
    task, data = make()
    run = trainer(tmp_path, [PredictionTable()])
    (tested,) = run.test(task, datamodule=data, verbose=False)
    run.predict(task, datamodule=data)
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["image"]) for row in rows] == list(range(100))
    count = 2 if make is pairs else 1
    for row in rows:
        lengths = {str(digit): float(row[f"length_{digit}"]) for digit in range(10)}
        predicted = row["prediction"].split(", ")
        assert set(predicted) == set(sorted(lengths, key=lengths.__getitem__)[-count:])
        assert float(row["confidence"]) == min(lengths[digit] for digit in predicted)
        assert len(row["label"].split(", ")) == count
        assert float(row["reconstruction_error"]) > 0
    assert sum(row["label"] == row["prediction"] for row in rows) / 100 == pytest.approx(tested["test/accuracy"])
    error = sum(float(row["reconstruction_error"]) for row in rows) / 100
    assert error == pytest.approx(tested["test/reconstruction_loss"], rel=1e-5)


@pytest.mark.parametrize(("callback", "make"), [(TwoDigitFigures, pairs), (ReconstructionFigures, singles)])
def test_draws_after_a_doubling_number_of_epochs_and_the_last(tmp_path, monkeypatch, callback, make):
    drawn = []
    monkeypatch.setattr(figures, "publish", lambda run, name, _: drawn.append((run.current_epoch + 1, name)))
    options = {"max_epochs": 7, "limit_train_batches": 1, "num_sanity_val_steps": 1}
    task, data = make()
    trainer(tmp_path, [callback(count=3)], **options).fit(task, datamodule=data)
    assert [epoch for epoch, name in drawn if name == "val/reconstructions"] == [1, 2, 4, 7]
    assert {name for _, name in drawn} == {"val/reconstructions", "val/wrong"}


@pytest.mark.parametrize(("callback", "make"), [(TwoDigitFigures, pairs), (ReconstructionFigures, singles)])
def test_draws_the_first_and_the_first_wrong_images(tmp_path, monkeypatch, callback, make):
    task, data = make()
    drawn = {}
    monkeypatch.setattr(callback, "draw", lambda self, rows, names, title: (title, rows))
    monkeypatch.setattr(figures, "publish", lambda run, name, draw: drawn.update({name: draw()}))
    data.batch_size = 7  # more than one batch for each figure
    trainer(tmp_path, [callback(count=12)]).test(task, datamodule=data, verbose=False)
    pictures, wrong = [], []
    task.eval()
    for stored in data.test_dataloader():
        batch = data.on_after_batch_transfer(stored, 0)
        prediction = task.predict_step(batch, 0)
        pictures += batch.pictures
        wrong += (prediction.classes != batch.labels).reshape(len(batch.labels), -1).any(dim=1).tolist()
    expected = {
        "test/reconstructions": pictures[:12],
        "test/wrong": [picture for picture, is_wrong in zip(pictures, wrong, strict=True) if is_wrong][:12],
    }
    for name, chosen in expected.items():
        column = 1 if callback is TwoDigitFigures else 0
        rows = drawn[name][1]
        assert len(rows) == len(chosen) == 12
        assert all(torch.equal(row[column], picture) for row, picture in zip(rows, chosen, strict=True))


@pytest.mark.parametrize("callback", [TwoDigitFigures, ReconstructionFigures])
def test_no_images_at_all_are_refused(callback):
    with pytest.raises(InputError, match=rf"{callback.__name__}: count=0: expected at least 1"):
        callback(count=0)
