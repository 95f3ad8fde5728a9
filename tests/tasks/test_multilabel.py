"""Several labels an image: losses, matching and metrics equal to plain loops, the paper's sizes, what is refused."""

from functools import partial
from itertools import permutations

import lightning as L
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.callbacks.forecast import forecast
from capsule_lightning.capsules import Capsules
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.multimnist import MultiMNISTDataModule
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.encoders.efficient import EfficientEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.losses.cross_entropy import CrossEntropyLoss
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.routing.self_attention import SelfAttentionRouting
from capsule_lightning.tasks.classification import ClassificationTask
from capsule_lightning.tasks.multilabel import MultiLabelTask, matched, present_classes

PARTS = {"loss", "class_loss", "reconstruction_loss"}


class Lookup(CapsuleNet):
    """Class capsules that its one pixel row spells out: the activations are the image."""

    def __init__(self, in_shape, num_classes):
        super().__init__(in_shape, num_classes)
        self.decoder = DenseDecoder(num_classes, 3, in_shape, hidden=(5,))

    def class_capsules(self, images):
        activations = images.flatten(1)
        directions = torch.nn.functional.normalize(torch.arange(1.0, 4).to(images) + activations.unsqueeze(-1), dim=-1)
        return Capsules(activations.unsqueeze(-1) * directions, activations)


def task(num_labels=2, **options):
    return MultiLabelTask((1, 1, 7), 7, net=Lookup, num_labels=num_labels, **options).double()


def random_batch(size, num_labels=2):
    """Images, pictures and labels without pattern: predictions are right, half right and wrong."""
    random = torch.Generator().manual_seed(1)
    images = torch.rand(size, 1, 1, 7, generator=random, dtype=torch.float64)
    pictures = torch.rand(size, num_labels, 1, 1, 7, generator=random, dtype=torch.float64)
    labels = torch.rand(size, 7, generator=random).topk(num_labels).indices
    return ImageBatch(images, pictures, labels, torch.arange(size))


def loop_matched(classes, labels):
    """Right classes to the places of their labels, then the others in turn to what is left."""
    places = [c if c in classes else None for c in labels]
    rest = [c for c in classes if c not in labels]
    return [rest.pop(0) if place is None else place for place in places]


def longest(activations, count):
    return sorted(range(len(activations)), key=lambda j: -activations[j])[:count]


def loop_losses(task, batch, training):
    """Margin loss and squared errors, an image, a class and an object at a time."""
    net, count = task.net, task.num_labels
    margin = error = 0.0
    for image, pictures, labels in zip(batch.images, batch.pictures, batch.labels.tolist(), strict=True):
        capsules = net(image[None])
        lengths = capsules.activations[0].tolist()
        for j, length in enumerate(lengths):
            margin += max(0, 0.9 - length) ** 2 if j in labels else 0.5 * max(0, length - 0.1) ** 2
        shown = labels if training else loop_matched(longest(lengths, count), labels)
        for label, picture in zip(shown, pictures, strict=True):
            decoded = net.decoder(capsules.poses, torch.tensor([label]))[0]
            error += sum(
                (a - b) ** 2 for a, b in zip(decoded.flatten().tolist(), picture.flatten().tolist(), strict=True)
            )
    size = len(batch.labels)
    margin, error = margin / size, error / size
    return {"loss": margin + task.reconstruction_weight * error, "class_loss": margin, "reconstruction_loss": error}


def losses(task, batch):
    """The losses of a batch as numbers, of training or evaluation as the task's mode is."""
    return {name: value.item() for name, value in task.losses(task.output(batch), batch).items()}


@pytest.mark.parametrize("num_labels", [2, 3])
@pytest.mark.parametrize("weight", [0.0005, 0.7])
def test_losses_equal_a_plain_loop(num_labels, weight):
    net, batch = task(num_labels, reconstruction_weight=weight).eval(), random_batch(20, num_labels)
    expected = loop_losses(net, batch, training=False)
    assert losses(net, batch) == pytest.approx(expected, rel=1e-9)
    errors = net.predict_step(batch, 0).errors
    assert_close(errors.mean().item(), expected["reconstruction_loss"], rtol=1e-9, atol=0)
    in_training = loop_losses(net, batch, training=True)
    assert losses(net.train(), batch) == pytest.approx(in_training, rel=1e-9)
    assert in_training["reconstruction_loss"] != pytest.approx(expected["reconstruction_loss"], rel=1e-6)


@pytest.mark.parametrize("num_labels", [2, 3, 4])
def test_predictions_are_the_longest_capsules_matched_with_the_labels(num_labels):
    net, batch = task(num_labels), random_batch(200, num_labels)
    classes = net.predict_step(batch, 0).classes.tolist()
    for predicted, image, labels in zip(classes, batch.images, batch.labels.tolist(), strict=True):
        assert predicted == loop_matched(longest(image.flatten().tolist(), num_labels), labels)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_matching_equals_a_plain_loop_for_every_pair_of_rows(count):
    rows = list(permutations(range(5), count))
    pairs = [(a, b) for a in rows for b in rows]
    classes, labels = (torch.tensor(side) for side in zip(*pairs, strict=True))
    expected = [loop_matched(list(a), list(b)) for a, b in pairs]
    assert matched(classes, labels).tolist() == expected


def test_unknown_labels_leave_the_longest_first():
    assert matched(torch.tensor([[4, 2, 6]]), torch.full((1, 3), -1)).tolist() == [[4, 2, 6]]


def test_the_order_of_the_labels_does_not_matter():
    net, batch = task(3), random_batch(200, 3)
    turned = batch._replace(pictures=batch.pictures[:, [2, 0, 1]], labels=batch.labels[:, [2, 0, 1]])
    assert losses(net, turned) == pytest.approx(losses(net, batch), rel=1e-12)
    net.eval()
    one, other = (net.predict_step(each, 0) for each in (batch, turned))
    wrong, wrong_turned = ((p.classes != b.labels).sum(dim=1) for p, b in ((one, batch), (other, turned)))
    assert_close(wrong, wrong_turned)
    settled = wrong <= 1  # two wrong classes may be compared with either of two pictures
    assert set(wrong.tolist()) >= {0, 1, 2}
    assert_close(one.classes[settled][:, [2, 0, 1]], other.classes[settled])
    assert_close(one.errors[settled], other.errors[settled], rtol=1e-12, atol=0)


def test_present_classes_are_ones():
    labels = torch.tensor([[3, 0], [1, 6]])
    expected = np.zeros((2, 7), dtype=np.int64)
    for row, pair in enumerate(labels.tolist()):
        expected[row, pair] = 1
    np.testing.assert_array_equal(present_classes(labels, 7).numpy(), expected)


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_the_gradient_is_the_numerical_one(mode):
    net, batch = task(loss=partial(MarginLoss, mode=mode), reconstruction_weight=0.1), random_batch(3)

    def loss(images):
        moved = batch._replace(images=images)
        return net.losses(net.output(moved), moved)["loss"]

    assert torch.autograd.gradcheck(loss, batch.images.requires_grad_())


SMALL = partial(
    CapsNet,
    encoder=partial(EfficientEncoder, channels=(4, 8), kernel_sizes=(9, 9), strides=(3, 2)),
    routing=SelfAttentionRouting,
    decoder=partial(DenseDecoder, hidden=(8,)),
)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, enable_checkpointing=False, **quiet, **options)


@pytest.mark.filterwarnings("ignore")  # of the trainer: few workers
@pytest.mark.parametrize("stage", ["val", "test"])
def test_metrics_count_each_image_once(tmp_path, stage):
    net = MultiLabelTask((1, 36, 36), 10, net=SMALL)
    data = MultiMNISTDataModule(fake=True, batch_size=32, test_pairs=2, val_size=70)  # the last batches are smaller
    run = trainer(tmp_path)
    (logged,) = (run.validate if stage == "val" else run.test)(net, datamodule=data, verbose=False)
    both = half = count = 0
    sums = dict.fromkeys(PARTS, 0.0)
    net.eval()
    with torch.no_grad():
        for stored in data.val_dataloader() if stage == "val" else data.test_dataloader():
            batch = data.on_after_batch_transfer(stored, 0)
            for lengths, labels in zip(net(batch.images).activations.tolist(), batch.labels.tolist(), strict=True):
                right = len(set(longest(lengths, 2)) & set(labels))
                both, half, count = both + (right == 2), half + right / 2, count + 1
            for name, value in losses(net, batch).items():
                sums[name] += value * len(batch.labels)
    assert count == (70 if stage == "val" else 200)
    assert half > both
    expected = {"accuracy": both / count, "digit_accuracy": half / count}
    expected |= {name: value / count for name, value in sums.items()}
    assert logged == pytest.approx({f"{stage}/{name}": value for name, value in expected.items()}, rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_training_logs_its_accuracies_and_losses(tmp_path):
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=0)
    run.fit(MultiLabelTask((1, 36, 36), 10, net=SMALL), datamodule=MultiMNISTDataModule(fake=True, batch_size=32))
    names = {f"train/{name}" for name in (*PARTS, "accuracy", "digit_accuracy")}
    assert names <= set(run.logged_metrics)
    values = run.logged_metrics
    assert 0 <= values["train/accuracy"] <= values["train/digit_accuracy"] <= 1
    parts = values["train/class_loss"] + 0.0005 * values["train/reconstruction_loss"]
    assert_close(values["train/loss"], parts)


def test_accuracies_of_a_training_batch_equal_a_plain_loop(monkeypatch):
    net, batch, logged = task(), random_batch(300), {}
    monkeypatch.setattr(net, "log", lambda name, value, **_: logged.update({name: value.item()}))
    net.training_step(batch, 0)
    rows = zip(batch.images.flatten(1).tolist(), batch.labels.tolist(), strict=True)
    right = [len(set(longest(lengths, 2)) & set(labels)) for lengths, labels in rows]
    assert logged["train/accuracy"] == pytest.approx(sum(n == 2 for n in right) / 300, rel=1e-6)
    assert logged["train/digit_accuracy"] == pytest.approx(sum(right) / 600, rel=1e-6)
    assert set(right) == {0, 1, 2}


def test_without_a_decoder_nothing_is_reconstructed():
    net = MultiLabelTask((1, 36, 36), 10, net=partial(SMALL, decoder=None))
    batch = net.example_batch(3)
    output = net.output(batch)
    prediction, found = net.prediction(output, batch), net.losses(output, batch)
    assert prediction.reconstructions is None
    assert prediction.errors is None
    assert tuple(found) == net.loss_names == ("loss",)
    assert_close(found["loss"], MarginLoss()(output.capsules, present_classes(batch.labels, 10)))


def test_sizes_of_the_papers_networks():
    with torch.device("meta"):
        net = MultiLabelTask((1, 36, 36), 10).net
        strides = {"strides": (1, 1, 2, 2), "primary_kernel_size": 5, "primary_stride": 2}
        efficient = CapsNet(
            (1, 36, 36), 10, encoder=partial(EfficientEncoder, **strides), routing=SelfAttentionRouting, decoder=None
        )
    assert sum(p.numel() for p in net.parameters()) == 11_361_808
    assert sum(p.numel() for p in efficient.parameters()) == 154_656  # Mazzia et al. 2021


def test_the_forecast_tries_steps_with_several_labels():
    net = MultiLabelTask((1, 36, 36), 10, net=SMALL, num_labels=3)
    batch = net.example_batch(4)
    assert batch.images.shape == (4, 1, 36, 36)
    assert batch.pictures.shape == (4, 3, 1, 36, 36)
    assert all(len(set(row)) == 3 for row in batch.labels.tolist())
    assert forecast(net).parameters == sum(p.numel() for p in net.parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "data", "named"),
    [
        (ClassificationTask, MultiMNISTDataModule, "num_labels=2 .*ClassificationTask expects 1.*MultiLabelTask"),
        (MultiLabelTask, DigitsDataModule, "num_labels=1 .*MultiLabelTask expects 2.*--model ClassificationTask"),
        (partial(MultiLabelTask, num_labels=3), MultiMNISTDataModule, "num_labels=2 .*expects 3.*--model.num_labels 2"),
    ],
)
def test_data_with_another_number_of_labels_are_refused(tmp_path, make, data, named):
    data = data(fake=True)
    net = make((1, 36, 36), 10, net=SMALL)
    with pytest.raises(InputError, match=named):
        trainer(tmp_path, fast_dev_run=True).fit(net, datamodule=data)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_labels": 1}, "num_labels=1: expected at least 2 and fewer than the 7 classes"),
        ({"num_labels": 7}, "num_labels=7: expected at least 2 and fewer than the 7 classes"),
        ({"reconstruction_weight": -1}, "reconstruction_weight=-1: expected 0 or more"),
    ],
)
def test_bad_values_are_refused(options, named):
    with pytest.raises(InputError, match=named):
        task(**options)


def test_a_loss_for_one_label_refuses_several():
    with pytest.raises(InputError, match=r"CrossEntropyLoss: is for one class an image, and MultiLabelTask"):
        task(loss=CrossEntropyLoss)
    with pytest.raises(InputError, match=r"targets of shape \(3, 7\): CrossEntropyLoss expects one class index"):
        CrossEntropyLoss()(Capsules(torch.zeros(3, 7, 1), torch.zeros(3, 7)), torch.zeros(3, 7))
