"""Pairs of training examples: the same on any number of processes, in the order of an epoch without them, resumed."""

from functools import partial

import pytest
import torch
from one_process import one_process
from torch.testing import assert_close

from capsule_lightning.augmentations.chain import Chain
from capsule_lightning.augmentations.geometry import Shift
from capsule_lightning.augmentations.mix import CutMix, MixUp
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.loader import ExactLoader, MemoryStore
from capsule_lightning.data.partners import PartnerLoader
from capsule_lightning.data.shares import of_mean_one, require_weights, shares_of_pairs
from capsule_lightning.errors import InputError

STORE = MemoryStore(torch.arange(103, dtype=torch.uint8).view(-1, 1, 1, 1), 1 + torch.arange(103) % 5)


def make(kind=PartnerLoader, **options):
    return kind(STORE, torch.arange(103), 12, training=True, num_draws=2, **options)


@pytest.mark.parametrize("balanced", [False, True])
def test_an_example_and_its_draws_are_those_of_an_epoch_without_partners(balanced):
    alone, paired = make(ExactLoader, balanced=balanced), make(balanced=balanced)
    for one, two in zip(alone, paired, strict=True):
        assert torch.equal(one.indices, two.indices[:, 0])
        assert torch.equal(one.draws, two.draws[:, 0])
        assert torch.equal(two.inputs.flatten(1).long(), two.indices)
        assert torch.equal(two.labels, STORE.labels[two.indices])
    order, draws = paired.plan()
    for part in (order, draws):  # each is a partner once, with the draws that it has itself
        assert torch.equal(part[:, 0].flatten().sort().values, part[:, 1].flatten().sort().values)
    assert (order[:, 0] != order[:, 1]).float().mean() > 0.5
    other = make(balanced=balanced)
    other.set_epoch(1)
    assert not torch.equal(other.plan()[0], order)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_pairs_of_one_process_and_go_on_in_mid_epoch(world_size):
    shares = [make(rank=rank, world_size=world_size) for rank in range(world_size)]
    whole = list(make())
    for one, *parts in zip(whole, *shares, strict=True):
        for name in ("inputs", "labels", "indices", "draws"):
            found = torch.stack([getattr(part, name) for part in parts], dim=1).flatten(0, 1)
            assert torch.equal(found, getattr(one, name))
    resumed = make()
    resumed.load_state_dict({"epoch": 0, "position": 5})
    for one, other in zip(whole[5:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Weighted(DigitsDataModule):
    """Digits, each of which counts by its place."""

    def example_weights(self):
        return torch.arange(len(self.store("train")), dtype=torch.float64)


@pytest.mark.parametrize("kind", [MixUp, CutMix])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_batch_is_mixed_of_augmented_pairs_whose_parts_count_by_share_and_weight(kind, world_size):
    found = []
    for rank in range(world_size):
        data = Weighted(batch_size=24, val_size=100, augmentation=partial(Chain, [partial(Shift, 1), kind]))
        data.setup("fit")
        data.trainer = one_process(rank, world_size)
        stored = next(iter(data.train_dataloader()))
        found.append((stored, data.on_after_batch_transfer(stored, 0)))
    mean = data.example_weights()[data._train].mean()
    for stored, batch in found:
        both = [Shift(1).train(stored.inputs[:, n] / 255, stored.draws[:, n, :2]) for n in (0, 1)]
        pictures, own = kind().mix(*both, stored.draws[:, 0, 2:])
        assert_close(batch.pictures, pictures)
        assert torch.equal(batch.indices, stored.indices[:, 0])
        weights = stored.indices / mean
        for n, (share, part) in enumerate(zip(batch.shares, (own, 1 - own), strict=True)):
            assert torch.equal(share.labels, stored.labels[:, n])
            assert_close(share.weights.double(), part.double() * weights[:, n], rtol=1e-6, atol=1e-6)
        greater = torch.where(own >= 0.5, stored.labels[:, 0], stored.labels[:, 1])
        assert torch.equal(batch.labels, greater)
        assert not torch.equal(greater, stored.labels[:, 0])


def test_validation_is_neither_mixed_nor_weighed():
    data = Weighted(batch_size=24, val_size=100, augmentation=MixUp)
    data.setup("fit")
    data.train_dataloader()
    batch = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert batch.shares == ()
    assert batch.images.shape == (24, 1, 8, 8)


def test_weights_alone_have_a_mean_of_one_over_the_examples_to_train_on():
    data = Weighted(batch_size=100, val_size=100)
    data.setup("fit")
    batches = [data.on_after_batch_transfer(each, 0) for each in data.train_dataloader()]
    assert all(torch.equal(batch.shares[0].labels, batch.labels) for batch in batches)
    weights = data.weights_of(data._train)
    assert_close(weights.mean(), torch.tensor(1.0))
    ratio = batches[0].shares[0].weights / batches[0].indices
    assert_close(ratio, ratio[:1].expand(100))


@pytest.mark.parametrize("weights", [[1.0, -0.5], [1.0, float("nan")], [float("inf"), 1.0], [0.0, 0.0]])
def test_what_is_no_weight_is_refused(weights):
    with pytest.raises(InputError, match=r"table\.csv: .*weight"):
        require_weights(torch.tensor(weights), "table.csv")


def test_training_examples_need_a_weight_above_zero():
    with pytest.raises(InputError, match="all examples to train on have the weight 0"):
        of_mean_one(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0, 1]))


def test_pairs_of_label_sets_keep_both():
    labels = torch.tensor([[[0, 2], [1, -1]], [[-1, -1], [0, 1]]])
    greater, (first, second) = shares_of_pairs(labels, torch.tensor([0.25, 0.5]), None)
    assert greater.tolist() == [[1, -1], [-1, -1]]
    assert torch.equal(first.labels, labels[:, 0])
    assert_close(first.weights + second.weights, torch.ones(2))
