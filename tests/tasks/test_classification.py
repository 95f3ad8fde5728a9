"""One label an image: losses equal to a plain computation, what the decoder sees, metrics, logged names."""

from functools import partial

import lightning as L
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.encoders.efficient import EfficientEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.losses.spread import SpreadLoss
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.self_attention import SelfAttentionRouting
from capsule_lightning.tasks.classification import ClassificationTask

PARTS = ("loss", "class_loss", "reconstruction_loss")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainer: few workers


class Lookup(CapsuleNet):
    """Class capsules that its one pixel row spells out: the activations are the image."""

    def __init__(self, in_shape, num_classes):
        super().__init__(in_shape, num_classes)
        self.decoder = DenseDecoder(num_classes, 3, in_shape, hidden=(5,))

    def class_capsules(self, images):
        activations = images.flatten(1)
        return Capsules(activations.unsqueeze(-1) * torch.tensor([0.5, -0.2, 0.8]).to(images), activations)


def task(**options):
    return ClassificationTask((1, 1, 7), 7, net=Lookup, **options).double()


def random_batch(size):
    """Images, pictures and labels without pattern: predictions are right and wrong."""
    random = torch.Generator().manual_seed(1)
    images, pictures = torch.rand(2, size, 1, 1, 7, generator=random, dtype=torch.float64)
    return ImageBatch(images, pictures, torch.randint(0, 3, (size,), generator=random), torch.arange(size))


def losses(task, batch):
    """The losses of a batch as numbers, of training or evaluation as the task's mode is."""
    return {name: value.item() for name, value in task.losses(task.output(batch), batch).items()}


def expected_losses(task, batch, shown):
    """Margin loss and squared error of the pictures decoded from the ``shown`` classes, a number at a time."""
    margin = error = 0.0
    for image, picture, label, seen in zip(batch.images, batch.pictures, batch.labels.tolist(), shown, strict=True):
        for j, length in enumerate(image.flatten().tolist()):
            margin += max(0, 0.9 - length) ** 2 if j == label else 0.5 * max(0, length - 0.1) ** 2
        decoded = task.net.decoder(task.net(image[None]).poses, torch.tensor([seen]))[0]
        pixels = zip(decoded.flatten().tolist(), picture.flatten().tolist(), strict=True)
        error += sum((a - b) ** 2 for a, b in pixels)
    margin, error = margin / len(shown), error / len(shown)
    return {"loss": margin + task.reconstruction_weight * error, "class_loss": margin, "reconstruction_loss": error}


@pytest.mark.parametrize("weight", [0.0005, 0.7])
def test_losses_equal_a_plain_computation_and_the_decoder_sees_the_label_in_training_alone(weight):
    net, batch = task(reconstruction_weight=weight), random_batch(20)
    longest = batch.images.flatten(1).argmax(dim=1).tolist()
    assert longest != batch.labels.tolist()
    assert losses(net.train(), batch) == pytest.approx(expected_losses(net, batch, batch.labels.tolist()), rel=1e-9)
    in_evaluation = expected_losses(net, batch, longest)
    assert losses(net.eval(), batch) == pytest.approx(in_evaluation, rel=1e-9)
    prediction = net.predict_step(batch, 0)
    assert prediction.classes.tolist() == longest
    assert_close(prediction.activations, batch.images.flatten(1))
    assert_close(prediction.reconstructions, net.net.decoder(net(batch.images).poses, torch.tensor(longest)))
    assert prediction.errors.mean().item() == pytest.approx(in_evaluation["reconstruction_loss"], rel=1e-9)


def test_without_a_decoder_there_is_one_loss_and_no_reconstruction():
    net = ClassificationTask((1, 8, 8), 10, net=partial(SMALL, decoder=None))
    batch = net.example_batch(3)
    output = net.output(batch)
    assert tuple(net.losses(output, batch)) == net.loss_names == ("loss",)
    assert net.prediction(output, batch).reconstructions is net.prediction(output, batch).errors is None


def test_the_loss_names_are_those_of_the_losses():
    net = task()
    assert tuple(losses(net, random_batch(2))) == net.loss_names == PARTS


SMALL = partial(
    CapsNet,
    encoder=partial(EfficientEncoder, channels=(4, 16), kernel_sizes=(3, 3), strides=(1, 2)),
    routing=SelfAttentionRouting,
    decoder=partial(DenseDecoder, hidden=(8,)),
)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, enable_checkpointing=False, **quiet, **options)


@pytest.mark.parametrize("stage", ["val", "test"])
def test_metrics_count_each_image_once(tmp_path, stage):
    net, data = ClassificationTask((1, 8, 8), 10, net=SMALL), DigitsDataModule(batch_size=64, val_size=150)
    run = trainer(tmp_path)
    for _ in range(2):  # of a second time nothing of the first is left
        (logged,) = (run.validate if stage == "val" else run.test)(net, datamodule=data, verbose=False)
    sums, right, seen = dict.fromkeys(PARTS, 0.0), torch.zeros(10), torch.zeros(10)
    net.eval()
    with torch.no_grad():
        for stored in data.val_dataloader() if stage == "val" else data.test_dataloader():
            batch = data.on_after_batch_transfer(stored, 0)
            found = net(batch.images).activations.argmax(dim=1) == batch.labels
            seen += batch.labels.bincount(minlength=10)
            right += batch.labels[found].bincount(minlength=10)
            for name, value in losses(net, batch).items():
                sums[name] += value * len(batch.labels)  # the last batch is smaller
    count = int(seen.sum())
    assert count == (150 if stage == "val" else 360)
    expected = {"accuracy": float(right.sum()) / count, **{name: value / count for name, value in sums.items()}}
    if stage == "test":
        expected |= {f"class_accuracy/{n}": float(a / b) for n, (a, b) in enumerate(zip(right, seen, strict=True))}
    assert logged == pytest.approx({f"{stage}/{name}": value for name, value in expected.items()}, rel=1e-5)


def test_training_logs_its_accuracy_and_losses(tmp_path):
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=2)
    run.fit(ClassificationTask((1, 8, 8), 10, net=SMALL), datamodule=DigitsDataModule(batch_size=32))
    names = {f"{stage}/{name}" for stage in ("train", "val") for name in ("accuracy", *PARTS)}
    assert set(run.logged_metrics) == names
    values = run.logged_metrics
    for stage in ("train", "val"):
        whole = values[f"{stage}/class_loss"] + 0.0005 * values[f"{stage}/reconstruction_loss"]
        assert_close(values[f"{stage}/loss"], whole)


def test_the_accuracy_of_a_training_batch_is_its_share_of_right_classes(monkeypatch):
    net, batch, logged = task(), random_batch(300), {}
    monkeypatch.setattr(net, "log", lambda name, value, **_: logged.update({name: value.item()}))
    loss = net.training_step(batch, 0)
    right = [max(range(7), key=row.__getitem__) for row in batch.images.flatten(1).tolist()]
    share = sum(a == b for a, b in zip(right, batch.labels.tolist(), strict=True)) / 300
    assert 0 < share < 1
    assert logged["train/accuracy"] == pytest.approx(share, rel=1e-6)
    assert logged["train/loss"] == loss.item() == net.step_losses["loss"].item()


def test_the_loss_is_told_how_far_the_run_is(tmp_path):
    told = []

    class Told(SpreadLoss):
        def at(self, step, total_steps):
            told.append((step, total_steps))
            super().at(step, total_steps)

    run = trainer(tmp_path, max_epochs=2, limit_train_batches=3, limit_val_batches=0)
    run.fit(ClassificationTask((1, 8, 8), 10, net=SMALL, loss=Told), datamodule=DigitsDataModule(batch_size=32))
    assert [pair for pair in told if pair[0] or pair[1] == 6][-6:] == [(step, 6) for step in range(6)]


def test_a_negative_weight_is_refused():
    with pytest.raises(InputError, match="reconstruction_weight=-1: expected 0 or more"):
        task(reconstruction_weight=-1)
