"""The loader: the same batches on any number of processes, every image once, continuation in mid-epoch."""

from collections import Counter

import lightning as L
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.loader import ExactLoader, MemoryStore

IMAGES = torch.arange(103, dtype=torch.uint8).view(-1, 1, 1, 1)
LABELS = 1000 + torch.arange(103)


def make(subset=103, batch_size=12, training=True, **options):
    subset = torch.arange(subset) if isinstance(subset, int) else subset
    return ExactLoader(MemoryStore(IMAGES, LABELS), subset, batch_size, training=training, num_draws=2, **options)


def order(batches):
    return [batch.indices.tolist() for batch in batches]


class FileStore:
    """A store of one's own, which reads each example from a file when it is asked for."""

    def __init__(self, folder, images, labels):
        self.folder, self.labels = folder, labels
        for number, image in enumerate(images.numpy()):
            np.save(folder / f"{number}.npy", image)

    def __len__(self):
        return len(self.labels)

    def take(self, indices):
        return torch.from_numpy(np.stack([np.load(self.folder / f"{number}.npy") for number in indices.tolist()]))

    def on(self, device):
        return self


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_store_of_ones_own_gives_the_batches_of_memory_and_resumes(tmp_path, world_size):
    store, images = FileStore(tmp_path, IMAGES, LABELS), torch.arange(103)
    for rank in range(world_size):
        options = {"training": True, "num_draws": 2, "rank": rank, "world_size": world_size}
        whole = list(make(**{key: options[key] for key in ("rank", "world_size")}))
        resumed = ExactLoader(store, images, 12, **options)
        resumed.load_state_dict({"epoch": 0, "position": 3})
        for expected, batch in zip(whole[3:], resumed, strict=True):
            for one, other in zip(expected, batch, strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize("training", [True, False])
def test_images_and_labels_are_those_of_the_indices(training):
    for batch in make(training=training):
        assert_close(batch.inputs.flatten().long(), batch.indices)
        assert_close(batch.labels, 1000 + batch.indices)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_processes_share_the_batches_of_one_process(world_size):
    shares = [make(rank=rank, world_size=world_size) for rank in range(world_size)]
    for whole, *parts in zip(make(), *shares, strict=True):
        assert [len(part.labels) for part in parts] == [12 // world_size] * world_size
        indices, draws = (torch.cat(x) for x in zip(*((part.indices, part.draws) for part in parts), strict=True))
        by_index, as_drawn = indices.argsort(), whole.indices.argsort()
        assert_close(indices[by_index], whole.indices[as_drawn])
        assert_close(draws[by_index], whole.draws[as_drawn], rtol=0, atol=0)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_training_drops_the_incomplete_batch_and_repeats_nothing(world_size):
    subset = torch.arange(0, 100, 2)
    shares = [make(subset, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [len(share) for share in shares] == [4] * world_size
    seen = [index for share in shares for batch in order(share) for index in batch]
    assert len(seen) == len(set(seen)) == 48
    assert set(seen) < set(subset.tolist())


def test_dropped_images_come_in_other_epochs():
    loader, seen = make(14), set()
    for epoch in range(20):
        loader.set_epoch(epoch)
        seen.update(index for batch in order(loader) for index in batch)
    assert seen == set(range(14))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 7, 12, 25, 48])
def test_evaluation_counts_each_image_once(count, world_size):
    seen = Counter()
    for rank in range(world_size):
        loader = make(torch.arange(50, 50 + count), training=False, rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(batch.draws is None and 0 < len(batch.labels) <= -(-12 // world_size) for batch in batches)
        seen.update(index for batch in order(batches) for index in batch)
    assert seen == Counter(range(50, 50 + count))


def test_evaluation_keeps_the_order_in_every_epoch():
    loader = make(25, training=False)
    for epoch in range(2):
        loader.set_epoch(epoch)
        assert [index for batch in order(loader) for index in batch] == list(range(25))


def test_order_and_draws_follow_seed_and_epoch():
    def epoch(seed, number):
        loader = make(seed=seed)
        loader.set_epoch(number)
        return order(loader), torch.cat([batch.draws for batch in loader]).tolist()

    keys = [(0, 0), (0, 1), (1, 0), (1, 1)]
    first, second = ([epoch(*key) for key in keys] for _ in range(2))
    assert first == second
    for what in zip(*first, strict=True):
        assert all(a != b for i, a in enumerate(what) for b in what[:i])


def test_draws_are_uniform_and_independent_of_each_other():
    count = 20_000
    images = torch.zeros(count, 1, 1, 1, dtype=torch.uint8)
    store = MemoryStore(images, LABELS)
    loader = ExactLoader(store, torch.zeros(count).long(), 1000, training=True, num_draws=2)
    draws = torch.cat([batch.draws for batch in loader])
    assert draws.shape == (count, 2)
    assert draws.min() >= 0
    assert draws.max() < 1
    cells = torch.bincount((draws * 5).long() @ torch.tensor([5, 1]), minlength=25)
    assert (cells - count / 25).abs().max() < 5 * (count / 25 * 24 / 25) ** 0.5  # five standard deviations


@pytest.mark.parametrize("done", range(9))
def test_continues_with_the_remaining_batches(done):
    interrupted, whole = make(), make()
    for loader in (interrupted, whole):
        loader.set_epoch(3)
    batches = iter(interrupted)
    for _ in range(done):
        next(batches)

    resumed = make()
    resumed.load_state_dict(interrupted.state_dict())
    resumed.set_epoch(3)  # as the trainer does after it restored the state
    remaining = list(whole)[done % len(whole) :]
    for expected, batch in zip(remaining, resumed, strict=True):
        assert_close(batch.indices, expected.indices)
        assert_close(batch.draws, expected.draws, rtol=0, atol=0)
    assert order(resumed) == order(whole)  # the rest only once


def test_continues_on_another_number_of_processes():
    interrupted = make()
    next(iter(interrupted))
    shares = [make(rank=rank, world_size=2) for rank in range(2)]
    for share in shares:
        share.load_state_dict(interrupted.state_dict())
    parts = zip(*map(order, shares), strict=True)
    assert [sorted(a + b) for a, b in parts] == [sorted(batch) for batch in order(make())[1:]]


def test_position_counts_batches_and_is_zero_after_the_epoch():
    loader = make()
    assert [loader.state_dict()["position"] for _ in loader] == [1, 2, 3, 4, 5, 6, 7, 0]
    assert loader.state_dict() == {"epoch": 0, "position": 0}


@pytest.mark.parametrize("training", [True, False])
def test_an_iteration_left_early_does_not_shorten_the_next(training):
    loader, whole = make(training=training), order(make(training=training))
    next(iter(loader))
    assert order(loader) == whole


def test_the_next_epoch_begins_at_its_start():
    loader, next_epoch = make(), make()
    loader.load_state_dict({"epoch": 0, "position": 5})
    for each in (loader, next_epoch):
        each.set_epoch(1)
    assert loader.state_dict() == {"epoch": 1, "position": 0}
    assert order(loader) == order(next_epoch)


@pytest.mark.parametrize("epoch", [0, 3])
def test_the_usual_order_is_one_permutation_of_seed_and_epoch(epoch):
    loader, random = make(seed=5), torch.Generator().manual_seed(5 * 1_000_003 + epoch)
    loader.set_epoch(epoch)
    order, draws = torch.randperm(103, generator=random), torch.rand(103, 2, generator=random)
    for number, batch in enumerate(loader):
        assert torch.equal(batch.indices, order[12 * number : 12 * number + 12])
        assert torch.equal(batch.draws, draws[12 * number : 12 * number + 12])


RARE = torch.where(torch.arange(103) % 20 == 0, 4, torch.where(torch.arange(103) % 3 == 0, 1, 7))
"""Classes of 103 examples: 6 of class 4, 32 of class 1, the others of class 7; none of 0, 2, 3, 5, 6."""


def make_balanced(training=True, subset=103, **options):
    store = MemoryStore(IMAGES, RARE)
    options = {"training": training, "num_draws": 2, "balanced": True, **options}
    return ExactLoader(store, torch.arange(subset) if isinstance(subset, int) else subset, 12, **options)


def test_balanced_epochs_draw_each_class_and_within_it_each_example_as_often():
    loader, seen = make_balanced(), []
    for epoch in range(300):
        loader.set_epoch(epoch)
        seen += [index for batch in order(loader) for index in batch]
    assert len(seen) == 300 * 96 == 300 * len(loader) * 12
    counts = torch.tensor(seen).bincount(minlength=103)
    for label in (1, 4, 7):
        here = counts[label == RARE]
        total, each = len(seen) / 3, len(seen) / 3 / len(here)
        assert abs(here.sum() - total) < 5 * (total * 2 / 3) ** 0.5  # five standard deviations
        assert ((here - each).abs() < 5 * each**0.5).all()


def test_balanced_epochs_take_the_subset_alone_and_follow_seed_and_epoch():
    subset = torch.arange(10, 60)

    def epoch(seed, number):
        loader = make_balanced(subset=subset, seed=seed)
        loader.set_epoch(number)
        return order(loader), torch.cat([batch.draws for batch in loader]).tolist()

    keys = [(0, 0), (0, 1), (1, 0)]
    first, second = ([epoch(*key) for key in keys] for _ in range(2))
    assert first == second
    assert first[0] != first[1] != first[2] != first[0]
    seen = {index for batches, _ in first for batch in batches for index in batch}
    assert seen <= set(range(10, 60))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_balanced_batches_of_one_process(world_size):
    shares = [make_balanced(rank=rank, world_size=world_size) for rank in range(world_size)]
    for whole, *parts in zip(make_balanced(), *shares, strict=True):
        merged = torch.stack([part.indices for part in parts], dim=1).flatten()  # each takes every world_size-th
        draws = torch.stack([part.draws for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(merged, whole.indices)
        assert torch.equal(draws, whole.draws)
        assert torch.equal(whole.labels, RARE[whole.indices])


@pytest.mark.parametrize("done", [0, 1, 5, 8])
def test_a_balanced_epoch_continues_with_the_remaining_batches(done):
    interrupted, whole = make_balanced(), make_balanced()
    for loader in (interrupted, whole):
        loader.set_epoch(3)
    batches = iter(interrupted)
    for _ in range(done):
        next(batches)
    resumed = make_balanced()
    resumed.load_state_dict(interrupted.state_dict())
    resumed.set_epoch(3)
    for expected, batch in zip(list(whole)[done % len(whole) :], resumed, strict=True):
        assert torch.equal(batch.indices, expected.indices)
        assert torch.equal(batch.draws, expected.draws)


def test_evaluation_is_never_balanced():
    assert [index for batch in order(make_balanced(training=False)) for index in batch] == list(range(103))


class Recorder(L.LightningModule):
    """Notes which images it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.trained.append((batch.indices.tolist(), batch.images.sum().item()))
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.validated += batch.indices.tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, checkpoint=None, balanced=False, **options):
    module = Recorder()
    callbacks = [L.pytorch.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(callbacks=callbacks, **quiet, **options)
    data = DigitsDataModule(batch_size=64, val_size=200, fake=True, balanced=balanced)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return module


@pytest.mark.filterwarnings("ignore")  # of the trainer: few workers, checkpoint folder not empty
@pytest.mark.parametrize(("limit", "balanced"), [(1.0, False), (2, False), (1.0, True)])
def test_trainer_resumed_anywhere_goes_on_as_if_uninterrupted(tmp_path, limit, balanced):
    options = {"max_epochs": 3, "limit_train_batches": limit, "balanced": balanced}
    whole = fit(tmp_path / "whole", **options)
    steps = 3 * (2 if limit == 2 else 3)
    assert len(whole.trained) == steps
    assert Counter(whole.validated) == dict.fromkeys(set(whole.validated), 3)
    assert len(set(whole.validated)) == 200
    for step in range(1, steps):
        resumed = fit(tmp_path / "resumed", tmp_path / "whole" / f"step={step}.ckpt", **options)
        assert resumed.trained == whole.trained[step:]
