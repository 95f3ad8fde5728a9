"""The table of test images: which rows, what they say, and that the number of processes and of batches is no matter."""

from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger

from capsule_lightning.callbacks.samples import PredictionSamples, Sample, as_bytes, choose, shortlist
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

SMALL = partial(
    CapsNet,
    encoder=partial(EfficientEncoder, channels=(4, 8), kernel_sizes=(3, 3), strides=(2, 1)),
    routing=SelfAttentionRouting,
    decoder=partial(DenseDecoder, hidden=(8,)),
)


class Tables(DummyLogger):
    """Takes tables, by name."""

    def __init__(self):
        super().__init__()
        self.tables = {}

    def log_table(self, key, columns, data, step):
        self.tables[key] = (columns, data, step)


def singles(net=SMALL):
    return ClassificationTask((1, 8, 8), 10, net=net), DigitsDataModule(fake=True, val_size=50)


def pairs():
    return MultiLabelTask((1, 36, 36), 10, net=SMALL), MultiMNISTDataModule(fake=True, val_size=50)


def table_of(task, data, count=64, **options):
    """The table of a test; none where nothing was logged."""
    logger = Tables()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(
        logger=logger, enable_checkpointing=False, callbacks=[PredictionSamples(count)], **quiet, **options
    )
    trainer.test(task, datamodule=data, verbose=False)
    return logger.tables.get("test/samples")


def random_samples(count, right):
    draw = np.random.default_rng(count)
    labels = draw.integers(0, 10, count).tolist()
    said = [label if draw.random() < right else (label + 1) % 10 for label in labels]
    sure = (draw.integers(0, 20, count) / 20).tolist()  # with ties
    return [Sample(n, [labels[n]], [said[n]], sure[n], []) for n in range(count)]


@pytest.mark.parametrize(("total", "right"), [(300, 0.9), (300, 0.1), (300, 1.0), (40, 0.5), (3, 0.0)])
def test_rows_are_those_of_a_plain_selection(total, right):
    found = random_samples(total, right)
    wrong = sorted((-s.confidence, s.number) for s in found if s.classes != s.labels)
    unsure = sorted((s.confidence, s.number) for s in found if s.classes == s.labels)
    rows = choose(found, 16)
    numbers = {reason: [s.number for why, s in rows if why == reason] for reason in ("wrong", "unsure", "chance")}
    assert numbers["wrong"] == [n for _, n in wrong[:8]]
    assert numbers["unsure"] == [n for _, n in unsure[:4]]
    assert len(rows) == len({s.number for _, s in rows}) == min(16, total)
    assert [why for why, _ in rows] == sorted((why for why, _ in rows), key=["wrong", "unsure", "chance"].index)


@pytest.mark.parametrize("right", [0.0, 0.3, 0.97, 1.0])
def test_batches_and_processes_change_nothing(right):
    found = random_samples(500, right)
    expected = choose(found, 20)
    order = np.random.default_rng(0).permutation(500)
    processes = []
    for share in np.array_split(order, 3):
        kept = []
        for batch in np.array_split(share, 10):
            kept = shortlist([*kept, *(found[n] for n in batch)], 20)
            assert len(kept) <= 35
        processes += kept
    assert choose(processes, 20) == expected


def test_what_chance_chooses_is_the_same_in_all_runs():
    def chosen(right):
        return [s.number for why, s in choose(random_samples(1000, right), 1000) if why == "chance"]

    one, other = chosen(1.0), chosen(0.0)
    both = set(one) & set(other)
    assert [n for n in one if n in both] == [n for n in other if n in both]
    assert one != sorted(one)
    assert 400 < np.mean(one[:100]) < 600


@pytest.mark.parametrize("make", [singles, pairs])
def test_the_table_says_what_the_network_says(make):
    task, data = make()
    columns, rows, step = table_of(task, data, count=30)
    assert columns == ["image", "chosen as", "label", "prediction", "confidence", "picture", "reconstruction"]
    assert (len(rows), step) == (30, 0)
    task.eval()
    expected = {}
    for stored in data.test_dataloader():
        batch = data.on_after_batch_transfer(stored, 0)
        with torch.no_grad():
            prediction = task.predict_step(batch, 0)
        for n, number in enumerate(batch.indices.tolist()):
            expected[str(number)] = (batch, prediction, n)
    for name, why, label, said, sure, picture, drawn in rows:
        batch, prediction, n = expected[name]
        labels, classes = batch.labels[n].reshape(-1), prediction.classes[n].reshape(-1)
        assert (label, said) == tuple(", ".join(data.class_names[c] for c in each) for each in (labels, classes))
        assert sure == pytest.approx(float(prediction.activations[n, classes].min()), abs=1e-5)
        assert (why == "wrong") == (label != said) or why == "chance"
        image, made = batch.images[n], prediction.reconstructions[n]
        made = made if make is singles else made.max(dim=0).values
        for shown, one in ((picture, image), (drawn, made)):
            times = 64 // one.shape[-1]
            assert shown.dtype == np.uint8
            assert shown.shape == (times * one.shape[-2], times * one.shape[-1])
            assert np.abs(shown[::times, ::times] / 255 - one[0].clamp(0, 1).numpy()).max() < 0.003


def test_without_a_decoder_there_is_no_reconstruction():
    columns, rows, _ = table_of(*singles(partial(SMALL, decoder=None)), count=5)
    assert columns[-1] == "picture"
    assert all(len(row) == len(columns) for row in rows)


def test_a_trial_run_logs_nothing():
    assert table_of(*singles(), fast_dev_run=True) is None


def test_small_pictures_are_enlarged_and_large_ones_left():
    small, large = torch.rand(3, 5, 7), torch.rand(1, 70, 65)
    assert as_bytes(small).shape == (45, 63, 3)
    assert as_bytes(large).shape == (70, 65)
    assert (as_bytes(small)[4, 8] == (small[:, 0, 0] * 255).round().numpy()).all()


def test_a_count_of_none_is_refused():
    with pytest.raises(InputError, match="PredictionSamples: count=0: expected at least 1"):
        PredictionSamples(0)
