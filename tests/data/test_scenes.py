"""Scenes: the truth is what is on the canvas, and nothing but seed and number decides what is in one."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.data.image_arrays import ImageArrayDataModule
from capsule_lightning.data.scene_composition import Rules, compose, tight_boxes
from capsule_lightning.data.scenes import ScenesDataModule
from capsule_lightning.data.targets import ABSENT, SceneBatch
from capsule_lightning.errors import InputError

SMALL = {"scenes": 32, "val_scenes": 16, "test_scenes": 16, "batch_size": 8}


def ready(stage="fit", **options):
    data = ScenesDataModule(**(SMALL | options))
    data.setup(stage)
    return data


def scenes(data, loader):
    batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]
    found = SceneBatch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    order = found.indices.argsort()
    return SceneBatch(*(part[order] for part in found))


def same(one, other):
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_some_classes_are_numbered_in_the_order_in_which_they_are_named():
    data, whole = ready(classes=[7, "2"]), ready()
    store, all_labels = data.store("train"), whole.store("train").labels
    assert tuple(data.class_names) == ("7", "2")
    assert data.num_classes == 2
    for number, digit in enumerate((7, 2)):
        ours, theirs = store.labels == number, all_labels == digit
        assert torch.equal(store.take(ours.nonzero()[:, 0]), whole.store("train").take(theirs.nonzero()[:, 0]))
    assert int(scenes(data, data.val_dataloader()).labels.max()) == 1


@pytest.mark.parametrize("classes", [[], ["1", 1], ["1", "ten"]])
def test_classes_that_are_not_there_or_named_twice_are_refused(classes):
    with pytest.raises(InputError, match="classes"):
        ready(classes=classes)


def test_an_upright_object_of_its_own_size_is_pasted_unchanged():
    """Of 8 pixels, not turned, one object: a cut-out lands pixel by pixel where its box says."""
    rules = Rules(side=32, objects=(1, 1), sizes=(8.0, 8.0), degrees=0.0)
    cutouts = torch.zeros(5, 1, 2, 12, 12)
    cutouts[:, :, 0, 2:10, 3:9] = torch.rand(5, 1, 8, 6)
    cutouts[:, :, 1, 2:10, 3:9] = 1
    ground = torch.rand(5, 1, 32, 32)
    made = compose(cutouts, torch.rand(5, rules.num_draws), rules, ground)
    for n in range(5):
        left, top, right, bottom = made.boxes[n, 0].long().tolist()
        assert (right - left, bottom - top) == (6, 8)
        expected = ground[n, 0].clone()
        expected[top:bottom, left:right] = cutouts[n, 0, 0, 2:10, 3:9]
        assert_close(made.pictures[n, 0], expected, rtol=0, atol=1e-5)
        assert_close(made.poses[n, 0, :3], torch.tensor([(left + right) / 2, (top + bottom) / 2, 8.0]))
        assert torch.equal(tight_boxes(made.owners[n] == 1), made.boxes[n, 0].long())


@pytest.mark.parametrize("occlusion", [0.0, 0.3])
def test_no_more_is_hidden_than_may_be_and_boxes_fit_what_is_seen(occlusion):
    """Each object alone, by the same numbers, shows what its box is around and how much of it others hide."""
    rules = Rules(side=48, objects=(5, 5), sizes=(12.0, 18.0), occlusion=occlusion)
    torch.manual_seed(0)
    cutouts = (torch.rand(24, 5, 1, 8, 8) > 0.3).float()
    made = compose(cutouts, torch.rand(24, rules.num_draws), rules)
    hidden = []
    for n, k in (made.present).nonzero().tolist():
        alone = rules._replace(objects=(1, 1))
        size, angle = made.poses[n, k, 2:4].tolist()
        draws = torch.zeros(1, alone.num_draws)
        chance = alone.of_objects(draws)
        chance[..., 1] = (size - 12) / 6
        chance[..., 2] = (angle * 180 / torch.pi / 30 + 1) / 2
        single = compose(cutouts[n : n + 1, k : k + 1], draws, alone)
        shift = (made.boxes[n, k, :2] - single.boxes[0, 0, :2]).long().tolist()
        whole = torch.roll(single.owners[0] > 0, (shift[1], shift[0]), (0, 1))
        assert tight_boxes(whole).tolist() == made.boxes[n, k].tolist()
        seen = made.owners[n] == k + 1
        assert not (seen & ~whole).any()
        hidden.append(1 - float(seen.sum() / whole.sum()))
        assert hidden[-1] == pytest.approx(float(made.hidden[n, k]), abs=1e-6)
    assert len(hidden) > 60
    assert max(hidden) <= occlusion + 1e-6
    assert (max(hidden) > 0) == (occlusion > 0)


def test_a_batch_states_the_same_in_masks_labels_boxes_and_poses():
    data = ready()
    batch = scenes(data, data.train_dataloader())
    here = batch.labels >= 0
    assert set(here.sum(dim=1).tolist()) <= {3, 4, 5, 6}
    assert batch.images.shape == (32, 1, 64, 64)
    for n in range(32):
        assert set(batch.masks[n].unique().tolist()) - {0} <= set((batch.labels[n][here[n]] + 1).tolist())
    assert (batch.boxes[here][:, 2:] <= 64).all()
    assert (batch.boxes[~here] == 0).all()
    assert (batch.labels[~here] == ABSENT).all()
    depths = batch.poses[..., 4]
    assert ((depths[here] > 0) & (depths[here] < 1)).all()


def test_scenes_depend_on_seed_number_and_epoch_alone():
    one, other = ready(), ready(batch_size=16, scenes=64)
    loader = one.train_dataloader()
    first = scenes(one, loader)
    more = scenes(other, other.train_dataloader())
    same(first, SceneBatch(*(part[:32] for part in more)))
    loader.set_epoch(1)
    assert not torch.equal(scenes(one, loader).pictures, first.pictures)
    fixed = ready(fresh=False)
    loader = fixed.train_dataloader()
    before = scenes(fixed, loader)
    loader.set_epoch(1)
    same(scenes(fixed, loader), before)
    reseeded = ready(seed=1)
    assert not torch.equal(scenes(reseeded, reseeded.train_dataloader()).pictures, first.pictures)


def test_two_processes_share_a_batch_and_a_loader_goes_on_in_mid_epoch():
    data = ready()
    whole = scenes(data, data.train_dataloader())
    parts = []
    for rank in range(2):
        loader = data.loader("train", data._train, training=True)
        loader.rank, loader.world_size = rank, 2
        parts += list(loader)
    found = [data.on_after_batch_transfer(part, 0) for part in parts]
    pictures = torch.cat([each.pictures for each in found])[torch.cat([each.indices for each in found]).argsort()]
    assert torch.equal(pictures, whole.pictures)
    loader = data.train_dataloader()
    steps = iter(loader)
    next(steps)
    state, rest = loader.state_dict(), list(steps)
    again = data.train_dataloader()
    again.load_state_dict(state)
    for one, other in zip(rest, again, strict=True):
        same(one[:4], other[:4])


def test_cutouts_of_train_validation_and_test_are_different_and_tests_are_for_everyone():
    data = ready(None, val_scenes=64)
    train, val = set(data._train.tolist()), set(data._val.tolist())
    assert not train & val
    assert len(train | val) == 1437
    assert data.val_dataloader().pool.tolist() == sorted(val)
    assert len(data.store("test")) == 360
    one, other = ready("test"), ready("test", seed=5)
    same(scenes(one, one.test_dataloader()), scenes(other, other.test_dataloader()))


def test_a_run_keeps_its_cutouts(tmp_path):
    data, other = ready(), ready(seed=3)
    assert not torch.equal(data._val, other._val)
    other.load_state_dict(data.state_dict())
    assert torch.equal(data._val, other._val)


def test_cutouts_of_a_file_with_opacity_on_photographs(tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    cut = random.integers(0, 255, (60, 4, 20, 20), dtype=np.uint8)
    cut[:, 3] = 0
    cut[:, 3, 4:16, 6:14] = 255
    np.savez(tmp_path / "cut.npz", train_images=cut, train_labels=np.arange(60) % 3, test_images=cut[:9],
             test_labels=np.arange(9) % 3)  # fmt: skip
    folder = tmp_path / "photographs"
    folder.mkdir()
    for n in range(5):
        Image.new("RGB", (90, 80), (10 * n, 200, 255 - n)).save(folder / f"{n}.png")
    made = ready(cutouts=lambda: ImageArrayDataModule(str(tmp_path / "cut.npz")), backgrounds=str(folder), degrees=0.0)
    batch = scenes(made, made.train_dataloader())
    assert batch.images.shape == (32, 3, 64, 64)
    behind = batch.pictures.permute(0, 2, 3, 1)[batch.masks == 0]
    assert set((behind[:, 1] * 255).round().unique().tolist()) >= {200.0}
    reds = {round(float(scene[0, 0, 0]) * 255) for scene in batch.pictures if scene[1, 0, 0] == 200 / 255}
    assert reds <= {0, 10, 20}  # the first three of five


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_objects": 4, "max_objects": 3}, "min_objects=4"),
        ({"min_size": 2}, "min_size=2"),
        ({"max_size": 80}, "max_size=80"),
        ({"occlusion": 1.5}, "occlusion=1.5"),
        ({"channels": 2}, "channels=2"),
        ({"batch_size": 64}, "at most 32"),
        ({"backgrounds": "nowhere"}, "backgrounds=nowhere"),
        ({"degrees": -1}, "degrees=-1"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        ready(**options)
