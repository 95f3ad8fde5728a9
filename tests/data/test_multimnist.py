"""MultiMNIST: pairs equal to a plain loop, never of one class or across splits, the same on any number of processes."""

from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from one_process import one_process
from torch.testing import assert_close

from capsule_lightning.data.base import ImageBatch, fake_images
from capsule_lightning.data.loader import MemoryStore, StoredBatch
from capsule_lightning.data.mnist import MNISTDataModule
from capsule_lightning.data.multimnist import MultiMNISTDataModule, PairLoader, draw_partners
from capsule_lightning.data.prepared import Images
from capsule_lightning.errors import InputError

IMAGES = torch.arange(103, dtype=torch.uint8).view(-1, 1, 1, 1)  # an image is its own number
LABELS = torch.arange(103) % 7


def make(subset=103, batch_size=12, training=True, labels=LABELS, **options):
    subset = torch.arange(subset) if isinstance(subset, int) else subset
    return PairLoader(MemoryStore(IMAGES, labels), subset, batch_size, training=training, **options)


def ready(stage="fit", **options):
    data = MultiMNISTDataModule(fake=True, **options)
    data.setup(stage)
    return data


def epoch(loader, number=0):
    """All batches of an epoch as one."""
    loader.set_epoch(number)
    return StoredBatch(*(torch.cat(parts) for parts in zip(*loader, strict=True)))


def seen(data, loader):
    """All batches of a loader as a task receives them, as one."""
    batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]
    return ImageBatch(*(torch.cat(parts) for parts in zip(*(batch[:4] for batch in batches), strict=True)))


def partner(index, draw, labels, subset):
    """The digits of other classes, in the order of their classes; the one that the draw points at."""
    others = sorted((int(labels[i]), int(i)) for i in subset if labels[i] != labels[index])
    return others[int(float(draw) * len(others))][1]


def canvas(digit, pad, shift, row, column):
    """One digit on its canvas, pixel by pixel."""
    size = digit.shape[-1] + 2 * pad
    out = np.zeros((size, size))
    down, right = (shift - int(float(draw) * (2 * shift + 1)) for draw in (row, column))
    for y, x in np.ndindex(digit.shape):
        if 0 <= y + pad + down < size and 0 <= x + pad + right < size:
            out[y + pad + down, x + pad + right] = digit[y, x] / 255
    return out


@pytest.mark.parametrize(("pad", "shift"), [(4, 4), (4, 6), (0, 3), (2, 0)])
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_equals_a_plain_loop(stage, pad, shift):
    data = ready(stage, pad=pad, shift=shift, batch_size=20)
    images, labels = fake_images((1, 28, 28), 10, "train" if stage == "fit" else "test")
    loader = data.train_dataloader() if stage == "fit" else data.test_dataloader()
    stored = next(iter(loader))
    batch = data.on_after_batch_transfer(stored, 0)
    for n, (index, draws) in enumerate(zip(stored.indices.tolist(), stored.draws, strict=True)):
        pair = (index, partner(index, draws[4], labels, loader.subset))
        places = (draws[0:2], draws[2:4])
        pictures = [canvas(images[i, 0].numpy(), pad, shift, *p) for i, p in zip(pair, places, strict=True)]
        assert batch.labels[n].tolist() == labels[list(pair)].tolist()
        np.testing.assert_allclose(batch.pictures[n, :, 0].numpy(), pictures, rtol=0, atol=1e-7)
        np.testing.assert_allclose(batch.images[n, 0].numpy(), np.minimum(sum(pictures), 1), rtol=0, atol=2e-7)
    assert (batch.pictures.sum(dim=1) > 1).any()  # so that clipping was needed
    assert batch.indices.tolist() == stored.indices.tolist()


def test_every_other_digit_of_another_class_is_a_partner_for_an_equal_share_of_draws():
    labels = torch.tensor([2, 0, 2, 2, 0, 3, 2])  # no digit of class 1
    by_class, counts = labels.argsort(stable=True), labels.bincount()
    for own in (0, 2, 3):
        others = (labels != own).nonzero()[:, 0]
        draws = torch.cat([(torch.arange(len(others)) + share) / len(others) for share in (0.01, 0.99)])
        chosen = draw_partners(torch.full((len(draws),), own), draws, by_class, counts)
        assert Counter(chosen.tolist()) == dict.fromkeys(others.tolist(), 2)


def test_the_ends_of_the_draws_choose_a_digit():
    labels = torch.arange(60_000) % 10
    by_class, counts = labels.argsort(stable=True), labels.bincount()
    for own, draw in product(range(10), (0.0, 1 - 2**-24)):
        (chosen,) = draw_partners(torch.tensor([own]), torch.tensor([draw]), by_class, counts)
        expected = (0 if own else 1) if draw == 0 else (9 if own < 9 else 8)
        assert labels[chosen] == expected


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("common", [50, 95, 102])
def test_pairs_are_of_two_classes_however_rare_one_is(training, common):
    labels = torch.where(torch.arange(103) < common, 5, torch.arange(103) % 3)
    loader = make(labels=labels, training=training)
    for number in range(5):
        pairs = epoch(loader, number)
        assert (pairs.labels[:, 0] != pairs.labels[:, 1]).all()
        assert_close(pairs.labels, labels[pairs.inputs.flatten(1).long()])


@pytest.mark.parametrize("training", [True, False])
def test_partners_come_from_the_subset(training):
    subset = torch.arange(0, 103, 3)
    loader, partners = make(subset, training=training), set()
    for number in range(20):
        pairs = epoch(loader, number)
        assert_close(pairs.inputs[:, 0].flatten().long(), pairs.indices)
        partners.update(pairs.inputs[:, 1].flatten().tolist())
    assert partners <= set(subset.tolist())
    assert partners == set(subset.tolist()) or not training


def test_no_digit_leaves_its_part_of_the_data():
    data = ready(val_size=100, batch_size=50, pad=0, shift=0)
    data.setup("test")
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    parts = [{picture.numpy().tobytes() for picture in seen(data, loader).pictures.flatten(0, 1)} for loader in loaders]
    assert min(map(len, parts)) > 90
    assert not any(a & b for i, a in enumerate(parts) for b in parts[:i])


@pytest.fixture
def dots(monkeypatch):
    """A digit is one dot in its corner, so that it shows where it is and whether it was cut."""

    def load(self, split):
        images = torch.zeros(500, 1, 28, 28, dtype=torch.uint8)
        images[:, :, 0, 0] = images[:, :, 27, 27] = 255
        return Images(images, torch.arange(500) % 10)

    monkeypatch.setattr(MNISTDataModule, "load", load)

    def first_dots(stage="fit", epochs=1, **options):
        data = MultiMNISTDataModule(**options)
        data.setup(stage)
        loader = data.train_dataloader() if stage == "fit" else data.test_dataloader()
        found = []
        for number in range(epochs):
            loader.set_epoch(number)
            found.append(seen(data, loader))
        return found

    return first_dots


@pytest.mark.parametrize(("pad", "shift"), [(4, 4), (4, 1), (2, 2), (3, 0)])
def test_every_shift_in_range_occurs_and_cuts_nothing(dots, pad, shift):
    places = [set(), set()]
    for batch in dots(epochs=6, pad=pad, shift=shift, val_size=0, batch_size=100):
        assert (batch.pictures.sum(dim=(2, 3, 4)) == 2).all()
        for n in range(2):
            first = batch.pictures[:, n, 0].flatten(1).argmax(dim=1)
            places[n].update((i // (28 + 2 * pad), i % (28 + 2 * pad)) for i in first.tolist())
    reach = range(pad - shift, pad + shift + 1)
    assert places == [set(product(reach, reach))] * 2


def test_the_two_shifts_are_independent(dots):
    (batch,) = dots(pad=4, shift=4, val_size=0, batch_size=100)
    first, second = batch.pictures[:, :, 0].flatten(2).argmax(dim=2).unbind(dim=1)
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) > 400


def test_a_shift_beyond_the_padding_cuts(dots):
    (batch,) = dots(pad=4, shift=6, val_size=0, batch_size=100)
    whole = batch.pictures.sum(dim=(2, 3, 4)).unique().tolist()
    assert whole == [0, 1, 2]  # the dots are in opposite corners


@pytest.mark.parametrize("fixed", [True, False])
def test_the_first_digit_keeps_its_shift_where_asked(dots, fixed):
    places = []
    for batch in dots(epochs=3, base_shift_fixed=fixed, val_size=0, batch_size=500):
        order = batch.indices.argsort()
        places.append(batch.pictures[order][:, :, 0].flatten(2).argmax(dim=2))
    same = [[(a[:, n] == b[:, n]).float().mean().item() for a, b in pairwise(places)] for n in (0, 1)]
    assert same[0] == [1, 1] if fixed else max(same[0]) < 0.2
    assert max(same[1]) < 0.2
    assert len(places[0][:, 0].unique()) > 70  # of 81


def test_the_first_digit_keeps_its_shift_in_all_its_test_pairs(dots):
    (batch,) = dots("test", test_pairs=3, base_shift_fixed=True)
    first, second = batch.pictures[:, :, 0].flatten(2).argmax(dim=2).view(3, 500, 2).unbind(dim=2)
    assert (first == first[0]).all()
    assert (second[1:] == second[0]).float().mean() < 0.2


def test_every_epoch_has_new_partners_and_shifts():
    loader = make(102)
    first, second = (epoch(loader, number) for number in (0, 1))
    a, b = (batch.indices.argsort() for batch in (first, second))
    assert (first.inputs[a, 1] == second.inputs[b, 1]).float().mean() < 0.2
    assert not (first.draws[a] == second.draws[b]).any()


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluation_pairs_are_always_the_same(stage):
    def pairs(number, **options):
        data = ready(stage, **options)
        loader = data.val_dataloader() if stage == "validate" else data.test_dataloader()
        loader.set_epoch(number)
        return seen(data, loader).pictures

    expected = pairs(0, seed=1)
    assert_close(pairs(3, seed=1, batch_size=7), expected, rtol=0, atol=0)
    if stage == "test":
        assert_close(pairs(0, seed=2), expected, rtol=0, atol=0)
    else:
        assert (pairs(0, seed=2) != expected).any()


def test_more_test_pairs_begin_with_the_fewer():
    one, three = (epoch(ready("test", test_pairs=pairs).test_dataloader()) for pairs in (1, 3))
    assert three.indices.tolist() == 3 * list(range(100))
    for few, many in zip(one, three, strict=True):
        assert_close(many[:100], few, rtol=0, atol=0)
    assert (three.draws[100:200] != three.draws[:100]).all()


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"base_shift_fixed": True}], ids=["", "fixed"])
def test_processes_share_the_pairs_of_one_process(training, world_size, options):
    shares = [make(training=training, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    whole = epoch(make(training=training, **options), 2)
    parts = StoredBatch(*(torch.cat(each) for each in zip(*(epoch(share, 2) for share in shares), strict=True)))
    by_index, as_drawn = parts.indices.argsort(), whole.indices.argsort()
    for part, expected in zip(parts, whole, strict=True):
        assert_close(part[by_index], expected[as_drawn], rtol=0, atol=0)


@pytest.mark.parametrize("world_size", [1, 3])
def test_each_test_pair_is_counted_once(world_size):
    counted = Counter()
    for rank in range(world_size):
        data = ready("test", test_pairs=2, batch_size=30)
        data.trainer = one_process(rank, world_size)
        loader = data.test_dataloader()
        batches = list(loader)
        assert len(batches) == len(loader)
        counted.update(index for batch in batches for index in batch.indices.tolist())
    assert counted == dict.fromkeys(range(100), 2)


def test_continues_with_the_remaining_pairs():
    interrupted, whole, resumed = make(), list(make()), make()
    batches = iter(interrupted)
    for _ in range(3):
        next(batches)
    resumed.load_state_dict(interrupted.state_dict())
    for expected, batch in zip(whole[3:], resumed, strict=True):
        for a, b in zip(expected, batch, strict=True):
            assert_close(a, b, rtol=0, atol=0)


def test_nothing_leaves_the_device_of_the_batch():
    data = ready()
    stored = next(iter(data.train_dataloader()))
    batch = data.on_after_batch_transfer(StoredBatch(*(part.to("meta") for part in stored)), 0)
    assert all(part.is_meta for part in batch[:4])  # an operation with a tensor elsewhere would have raised


def test_the_shape_follows_the_padding():
    assert MultiMNISTDataModule().in_shape == (1, 36, 36)
    data = ready(pad=6, batch_size=5)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch.images.shape == (5, *data.in_shape) == (5, 1, 40, 40)
    assert batch.pictures.shape == (5, 2, 1, 40, 40)
    assert batch.labels.shape == (5, data.num_labels)


def test_the_digits_are_those_of_mnist(tmp_path):
    data = MultiMNISTDataModule(str(tmp_path), download=False)
    with pytest.raises(InputError, match=f"train images of mnist were not found(?s:.*){tmp_path}(?s:.*)is off"):
        data.prepare_data()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"shift": -1}, "shift=-1: expected 0 to 31"),
        ({"shift": 32}, "shift=32: expected 0 to 31; a digit that moves further is out of sight"),
        ({"shift": 28, "pad": 0}, "shift=28: expected 0 to 27"),
        ({"pad": -1}, "pad=-1: expected 0 or more"),
        ({"test_pairs": 0}, "test_pairs=0: expected at least 1 pair"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"val_size": -1}, "val_size=-1"),
    ],
)
def test_bad_values_are_refused(options, named):
    with pytest.raises(InputError, match=named):
        MultiMNISTDataModule(**options)


@pytest.mark.parametrize("training", [True, False])
def test_digits_of_one_class_alone_are_refused(training):
    with pytest.raises(InputError, match="all 15 digits to make pairs of are of class 3: expected two classes or more"):
        make(torch.arange(3, 103, 7), training=training)
