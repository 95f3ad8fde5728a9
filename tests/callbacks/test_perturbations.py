"""Perturbations drawn in training and after."""

from functools import partial

import lightning as L
import numpy as np
import pytest
import torch

from capsule_lightning.callbacks import perturbations
from capsule_lightning.callbacks.perturbations import PerturbationFigures
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.multimnist import MultiMNISTDataModule
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.encoders.efficient import EfficientEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.figures.perturbations import STEPS, colored_changes, perturbed_pictures
from capsule_lightning.figures.tiles import tile
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.self_attention import SelfAttentionRouting
from capsule_lightning.tasks.classification import ClassificationTask
from capsule_lightning.tasks.multilabel import MultiLabelTask

pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainer: few workers

SMALL = partial(
    CapsNet,
    encoder=partial(EfficientEncoder, channels=(4, 8), kernel_sizes=(3, 3), strides=(2, 1)),
    routing=SelfAttentionRouting,
    decoder=partial(DenseDecoder, hidden=(8,)),
)


def trainer(folder, *callbacks, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, enable_checkpointing=False, callbacks=list(callbacks), **quiet, **options)


def digits(net=SMALL):
    return ClassificationTask((1, 8, 8), 10, net=net), DigitsDataModule(fake=True, val_size=50, batch_size=16)


@pytest.fixture
def drawn(monkeypatch):
    """What is published, in place of files."""
    published = []
    monkeypatch.setattr(
        perturbations, "publish", lambda run, name, draw: published.append((run.current_epoch, name, draw()))
    )
    return published


def test_the_first_test_images_are_perturbed_as_their_true_class(tmp_path, drawn):
    task, data = digits()
    trainer(tmp_path, PerturbationFigures(count=2)).test(task, datamodule=data, verbose=False)
    assert [name for _, name, _ in drawn] == ["test/perturbations_1", "test/perturbations_2"]
    images, labels = data.store("test").take(torch.arange(2)), data.store("test").labels
    task.eval()
    for n, (_, _, figure) in enumerate(drawn):
        picture, label = images[n : n + 1].float() / 255, int(labels[n])
        with torch.no_grad():
            pose = task.net(picture).poses[0, label]
        moved = perturbed_pictures(task.net.decoder, pose, label, 10)
        expected = tile(colored_changes(moved, untouched=len(STEPS) // 2))  # the digits are small
        np.testing.assert_allclose(figure.axes[0].images[0].get_array(), expected, atol=1e-5)
        np.testing.assert_allclose(figure.axes[1].images[0].get_array(), picture[0, 0], atol=1e-6)
        assert figure.get_suptitle() == f"Class {label}, each dimension moved alone (test)"


def test_in_training_they_are_drawn_now_and_then(tmp_path, drawn):
    run = trainer(tmp_path, PerturbationFigures(count=1), max_epochs=6, limit_train_batches=1, num_sanity_val_steps=1)
    task, data = digits()
    run.fit(task, datamodule=data)
    assert [(epoch + 1, name) for epoch, name, _ in drawn] == [(n, "val/perturbations_1") for n in (1, 2, 4, 6)]


@pytest.mark.parametrize("case", ["no decoder", "pairs"])
def test_steps_aside(tmp_path, drawn, case):
    task, data = digits(partial(SMALL, decoder=None))
    if case == "pairs":
        task, data = MultiLabelTask((1, 36, 36), 10, net=SMALL), MultiMNISTDataModule(fake=True, val_size=50)
    trainer(tmp_path, PerturbationFigures()).test(task, datamodule=data, verbose=False)
    assert drawn == []


def test_at_least_one_image():
    with pytest.raises(InputError, match="count=0"):
        PerturbationFigures(0)
