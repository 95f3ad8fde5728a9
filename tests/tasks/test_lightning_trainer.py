"""What a user of Lightning does with a plain `L.Trainer`: fit, test, predict, resume and load, by the checkpoint."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.tuner import Tuner

from capsule_lightning import load_network
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.uniform import UniformRouting
from capsule_lightning.schedules import ExponentialDecay
from capsule_lightning.tasks.classification import ClassificationTask

pytestmark = pytest.mark.filterwarnings("ignore")  # the trainer's advice

ENCODER = partial(SabourEncoder, channels=4, kernel_size=3, num_types=2, primary_kernel_size=3)
NET = partial(CapsNet, encoder=ENCODER, routing=UniformRouting, decoder=None)


def a_net(in_shape: tuple[int, ...], num_classes: int) -> CapsNet:
    """A network that a function makes."""
    return NET(in_shape, num_classes)


class Trained(NamedTuple):
    """A short training, as a user has it in a notebook."""

    trainer: L.Trainer
    task: ClassificationTask
    data: DigitsDataModule


def fitted(folder: Path, net: object = NET, epochs: int = 1) -> Trained:
    data = DigitsDataModule(batch_size=64, normalization="channel")
    task = ClassificationTask(
        data.in_shape,
        data.num_classes,
        net=net,
        loss=partial(MarginLoss, m_plus=0.8),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        lr_scheduler=partial(ExponentialDecay, decay=0.5),
    )
    trainer = L.Trainer(
        max_epochs=epochs,
        limit_train_batches=2,
        limit_val_batches=1,
        limit_test_batches=1,
        limit_predict_batches=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, monitor="val/accuracy", mode="max", filename="best")],
    )
    trainer.fit(task, data)
    return Trained(trainer, task, data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return fitted(tmp_path_factory.mktemp("lightning"))


def path_of(trained: Trained) -> str:
    return str(trained.trainer.checkpoint_callback.best_model_path)


def test_the_best_checkpoint_is_tested_and_predicts(trained: Trained) -> None:
    trainer, task, data = trained
    (numbers,) = trainer.test(task, data, ckpt_path="best", verbose=False)
    assert 0 <= numbers["test/accuracy"] <= 1
    (prediction,) = trainer.predict(task, data, ckpt_path="best")
    assert prediction.poses.shape == (64, 10, 16)
    torch.testing.assert_close(prediction.poses.norm(dim=-1), prediction.activations)


def test_a_checkpoint_makes_the_task_again(trained: Trained) -> None:
    _, task, data = trained
    again = ClassificationTask.load_from_checkpoint(path_of(trained), map_location="cpu").eval()
    images = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(again(images).poses, task.eval()(images).poses, rtol=0, atol=0)
    assert again.loss.m_plus == 0.8
    assert again.lr == 0.1
    assert type(again.make_optimizer([torch.nn.Parameter(torch.zeros(1))])) is torch.optim.SGD
    assert again.trained_on == task.trained_on
    other = DigitsDataModule(batch_size=64)  # its own normalization is none
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, limit_test_batches=1)
    trainer.test(again, other, verbose=False)
    assert (other.normalization, other.statistics) == ("channel", data.statistics)


def test_training_goes_on_from_a_checkpoint(trained: Trained, tmp_path: Path) -> None:
    _, _, data = trained
    task = ClassificationTask.load_from_checkpoint(path_of(trained))
    trainer = L.Trainer(
        max_epochs=2,
        limit_train_batches=2,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, data, ckpt_path=path_of(trained))
    assert trainer.global_step == 4


def test_a_checkpoint_of_lightning_is_a_network_to_load_and_to_share(trained: Trained, tmp_path: Path) -> None:
    from capsule_lightning.sharing.export import export

    images = DigitsDataModule().load("test").images[:3]
    shared = export(path_of(trained), tmp_path / "net.safetensors")
    assert shared.unknown is None
    one, other = load_network(path_of(trained)).predict(images), load_network(shared.path).predict(images)
    assert one.names == other.names
    assert torch.equal(one.poses, other.poses)
    mean, deviation = trained.data.statistics
    with torch.no_grad():
        expected = trained.task.eval()((images / 255 - mean[0]) / deviation[0])
    torch.testing.assert_close(one.lengths, expected.activations)


class Renamed(DigitsDataModule):
    """Digits by other names."""

    class_names = tuple("abcdefghij")


class Wide(DigitsDataModule):
    """Digits, and a class that none of them is of."""

    class_names = tuple("0123456789X")


@pytest.mark.parametrize(("other", "named"), [(Renamed, "10 classes 0, 1.*10: a, b"), (Wide, "10 classes .* have 11")])
def test_data_of_other_classes_are_refused_by_name(other: type, named: str, trained: Trained) -> None:
    for words in ({"ckpt_path": "best"}, {}):
        with pytest.raises(InputError, match=named):
            trained.trainer.test(trained.task, other(batch_size=64), verbose=False, **words)


@pytest.mark.parametrize("net", [a_net, lambda shape, classes: NET(shape, classes)], ids=["function", "lambda"])
def test_a_network_that_no_name_leads_to_still_saves_a_plain_checkpoint(net: object, tmp_path: Path) -> None:
    trained = fitted(tmp_path, net)
    found = torch.load(path_of(trained), weights_only=True)
    assert ("net" in found["hyper_parameters"]) == (net is a_net)
    trained.trainer.test(trained.task, trained.data, ckpt_path="best", verbose=False)


def test_the_tuner_finds_a_rate_and_sets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = DigitsDataModule(batch_size=64)
    task = ClassificationTask(data.in_shape, data.num_classes, net=NET)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    found = Tuner(trainer).lr_find(task, data, num_training=20, max_lr=0.1)
    assert task.lr == found.suggestion()
    (optimizer,) = [task.make_optimizer(task.parameters())]
    assert optimizer.param_groups[0]["lr"] == task.lr
