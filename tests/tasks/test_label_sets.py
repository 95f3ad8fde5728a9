"""Images of any number of classes: losses, predictions and metrics equal to plain loops; what is refused."""

from functools import partial

import lightning as L
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score
from torch.testing import assert_close

from capsule_lightning.augmentations.mix import MixUp
from capsule_lightning.callbacks.collected import confidences
from capsule_lightning.capsules import Capsules
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.loader import MemoryStore
from capsule_lightning.data.shares import Share
from capsule_lightning.decoders.class_independent import ClassIndependentDecoder
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.losses.cross_entropy import BinaryCrossEntropyLoss, CrossEntropyLoss
from capsule_lightning.losses.margin import MarginLoss
from capsule_lightning.losses.ordinal import OrdinalLoss
from capsule_lightning.losses.spread import SpreadLoss
from capsule_lightning.metrics.label_sets import ExactMatch, LabelAUROC, LabelF1, LabelPrecision, LabelRecall
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.models.cnn import BaselineCNN
from capsule_lightning.models.features import FeatureNet
from capsule_lightning.routing.self_routing import SelfRouting
from capsule_lightning.tasks.classification import ClassificationTask
from capsule_lightning.tasks.label_sets import LabelSetTask
from capsule_lightning.tasks.multilabel import MultiLabelTask

SMALL = partial(
    CapsNet,
    encoder=partial(SabourEncoder, channels=2, kernel_size=3, num_types=1, primary_kernel_size=3),
    decoder=partial(DenseDecoder, hidden=(8,)),
)
CNN = partial(BaselineCNN, channels=(2,), hidden=(4,))
LABELS = torch.tensor([[0, 2, 5], [3, -1, -1], [-1, -1, -1], [1, 6, -1]])


class Lookup(CapsuleNet):
    """Class capsules that its one pixel row spells out: the activations are the image."""

    def __init__(self, in_shape, num_classes):
        super().__init__(in_shape, num_classes)
        self.decoder = DenseDecoder(num_classes, 3, in_shape, hidden=(5,))

    def class_capsules(self, images):
        activations = images.flatten(1)
        return Capsules(activations.unsqueeze(-1) * torch.arange(1.0, 4).to(images), activations)


def batch_of(count=4):
    images = torch.rand(count, 1, 1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = LABELS.repeat(-(-count // 4), 1)[:count]
    return ImageBatch(images, images.flip(-1), labels, torch.arange(count))


@pytest.fixture
def task():
    torch.manual_seed(0)
    return LabelSetTask((1, 1, 7), 7, Lookup, reconstruction_weight=0.3).double()


@pytest.mark.parametrize("training", [True, False])
def test_losses_equal_a_plain_loop(task, training):
    batch = batch_of()
    margin = error = 0.0
    for image, picture, labels in zip(batch.images, batch.pictures, batch.labels.tolist(), strict=True):
        lengths = image.flatten().tolist()
        for k, v in enumerate(lengths):
            margin += max(0, 0.9 - v) ** 2 if k in labels else 0.5 * max(0, v - 0.1) ** 2
        shown = set(labels) - {-1} if training else {k for k, v in enumerate(lengths) if v >= 0.5}
        poses = task.net(image[None]).poses[0].clone()
        poses[[k for k in range(7) if k not in shown]] = 0
        decoded = torch.sigmoid(task.net.decoder.layers(poses.flatten()))
        error += (decoded - picture.flatten()).square().sum().item()
    found = task.train(training).losses(task.output(batch), batch)
    expected = {"loss": (margin + 0.3 * error) / 4, "class_loss": margin / 4, "reconstruction_loss": error / 4}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-9)


def test_shares_weigh_the_whole_loss(task):
    batch, parts = batch_of(), [torch.tensor([1.0, 0.0, 0.75, 2.0]), torch.tensor([0.0, 0.0, 0.25, 1.0])]
    other = LABELS.flip(0)
    shares = tuple(Share(labels, part) for labels, part in zip((LABELS, other), parts, strict=True))
    mixed = batch._replace(shares=shares)
    output = task.output(mixed)
    found = task.losses(output, mixed)
    expected = 0.0
    for share in shares:
        for n in range(4):
            one = Capsules(*(part[n : n + 1] for part in output.capsules))
            expected += share.weights[n] * task.loss(one, task.targets(share.labels[n : n + 1])) / 4
    assert_close(found["class_loss"], expected)
    assert_close(found["reconstruction_loss"], (output.errors * sum(parts)).mean())


def test_predictions_are_all_classes_from_the_threshold_on(task):
    batch = batch_of(40)
    prediction = task.eval().predict_step(batch, 0)
    sure = confidences(prediction.activations, prediction.classes)
    for row, image, least in zip(prediction.classes.tolist(), batch.images, sure.tolist(), strict=True):
        lengths = image.flatten().tolist()
        named = [k for k, v in enumerate(lengths) if v >= 0.5]
        assert row == [*named, *[-1] * (7 - len(named))]
        assert least == pytest.approx(min((lengths[k] for k in named), default=1 - max(lengths)))


def test_metrics_are_those_of_scikit_learn():
    random = torch.Generator().manual_seed(2)
    scores, there = torch.rand(200, 6, generator=random), torch.rand(200, 6, generator=random) < 0.3
    there[:, 5] = False
    scores[:, 5] = 0.2  # a class that nobody has, and that is never predicted
    named = (scores >= 0.5).numpy()
    known = there.numpy()[:, :5]
    each = f1_score(known, named[:, :5], average=None)
    for metric, expected in (
        (ExactMatch(), (named == there.numpy()).all(axis=1).mean()),
        (LabelF1(6, "micro"), f1_score(there, named, average="micro")),
        (LabelF1(6, "macro"), each.mean()),
        (LabelF1(6, "none"), [*each, float("nan")]),
        (LabelPrecision(), precision_score(there, named, average="micro")),
        (LabelRecall(), recall_score(there, named, average="micro")),
        (LabelAUROC(6), roc_auc_score(known, scores[:, :5], average="macro")),
    ):
        for part in (slice(0, 60), slice(60, 200)):
            metric.update(scores[part], there[part].long())
        assert metric.compute().tolist() == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert LabelAUROC(6, each=True)(scores, there.long()).isnan().tolist() == [False] * 5 + [True]


class Digits(DigitsDataModule):
    """Digits as images of up to two classes: whether the digit is even, and whether it is above five."""

    num_labels = 0
    class_names = ("even", "large", "nine")

    def open(self, split):
        store = super().open(split)
        sets = [(number % 2 == 0, number > 5, number == 9) for number in store.labels.tolist()]
        rows = [[n for n, here in enumerate(each) if here] for each in sets]
        return MemoryStore(store.inputs, torch.tensor([[*row, *[-1] * (2 - len(row))] for row in rows]))

    def require_usable(self, split, images, labels, shape):
        pass


@pytest.mark.filterwarnings("ignore")  # of the trainer: few workers
def test_a_run_logs_its_metrics_for_each_class_too(tmp_path):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(default_root_dir=tmp_path, enable_checkpointing=False, max_epochs=1, **quiet)
    task, data = LabelSetTask((1, 8, 8), 3, SMALL), Digits(val_size=100, augmentation=MixUp)
    trainer.fit(task, datamodule=data)
    assert {"train/accuracy", "train/micro_f1", "val/accuracy", "val/auroc"} <= set(trainer.logged_metrics)
    (found,) = trainer.test(task, datamodule=data, verbose=False)
    assert {f"test/{name}/{of}" for name in ("f1", "auroc") for of in data.class_names} <= set(found)
    areas = [found[f"test/auroc/{name}"] for name in data.class_names]
    assert found["test/auroc"] == pytest.approx(sum(areas) / 3, rel=1e-6)
    with pytest.raises(InputError, match=r"num_labels=any number .*ClassificationTask expects 1: .*LabelSetTask"):
        trainer.fit(ClassificationTask((1, 8, 8), 3, SMALL), datamodule=Digits())
    with pytest.raises(InputError, match=r"num_labels=1 .*LabelSetTask expects any number: .*ClassificationTask"):
        trainer.fit(LabelSetTask((1, 8, 8), 10, SMALL), datamodule=DigitsDataModule())


class Plain(ClassificationLoss):
    """A loss of one's own that knows no weights."""

    def forward(self, capsules, targets):
        return capsules.activations.mean()


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_takes_no_weights_is_refused_where_images_are_mixed():
    trainer = L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(InputError, match="Plain: takes no weights, and this training mixes images"):
        trainer.fit(ClassificationTask((1, 8, 8), 10, SMALL, Plain), datamodule=DigitsDataModule(augmentation=MixUp))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"threshold": 1.0}, "threshold=1.0: expected a number between 0 and 1"),
        ({"loss": partial(MarginLoss, class_weights=[1.0] * 7)}, r"class_weights.*null"),
        ({"net": partial(SMALL, decoder=ClassIndependentDecoder)}, r"ClassIndependentDecoder: .*DenseDecoder"),
        ({"loss": CrossEntropyLoss}, r"CrossEntropyLoss: is for one class an image.*BinaryCrossEntropyLoss"),
        ({"loss": OrdinalLoss}, r"OrdinalLoss: is for one class an image"),
        ({"loss": SpreadLoss}, r"SpreadLoss: is for one class an image"),
        ({"net": partial(FeatureNet, ordinal=True)}, r"FeatureNet: ordinal=true is for grades"),
    ],
)
def test_what_cannot_be_is_refused(options, named):
    for task in (LabelSetTask, MultiLabelTask):
        if task is LabelSetTask or not {"threshold", "net"} & set(options) or "ordinal" in named:
            with pytest.raises(InputError, match=named):
                task((1, 8, 8), 7, **{"net": SMALL, **options})


@pytest.mark.parametrize(
    ("task", "net", "loss", "named"),
    [
        (LabelSetTask, CNN, MarginLoss, r"BaselineCNN: its activations sum to 1 .*--model.loss BinaryCrossEntropyLoss"),
        (LabelSetTask, partial(SMALL, routing=SelfRouting), MarginLoss, r"sum to 1 .*routing, such as DynamicRouting"),
        (LabelSetTask, SMALL, BinaryCrossEntropyLoss, r"poses of 16 dimensions are not logits.*use MarginLoss"),
        (ClassificationTask, SMALL, CrossEntropyLoss, r"poses of 16 dimensions are not logits.*use MarginLoss"),
        (LabelSetTask, CNN, BinaryCrossEntropyLoss, None),
        (LabelSetTask, SMALL, MarginLoss, None),
        (ClassificationTask, CNN, CrossEntropyLoss, None),
    ],
)
def test_a_loss_that_does_not_fit_the_network_is_refused_before_data_are_read(task, net, loss, named):
    made, before = task((1, 8, 8), 7, net, loss), torch.get_rng_state()
    if named is None:
        made.try_loss()
    else:
        with pytest.raises(InputError, match=named):
            made.try_loss()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in made.modules())


def test_logits_are_present_as_their_sigmoids_say():
    logits = torch.tensor([[[-1.0], [2.0]]])
    capsules = Capsules(logits, torch.tensor([[0.05, 0.95]]))
    assert_close(BinaryCrossEntropyLoss().presence(capsules), torch.sigmoid(logits[..., 0]))
    assert torch.equal(MarginLoss().presence(capsules), capsules.activations)
