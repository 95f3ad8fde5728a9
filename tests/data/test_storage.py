"""Pictures in memory, in shards and in their files: the same batches to the bit, and every fault of a shard named."""

import json
import os
import pickle
import shutil
import tracemalloc
from itertools import islice
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from capsule_lightning.augmentations.geometry import PaddedCrop
from capsule_lightning.data import sharded_trees, shards, storage
from capsule_lightning.data.base import ImageBatch
from capsule_lightning.data.facts import facts_of
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.image_table import ImageTableDataModule
from capsule_lightning.data.loader import ExactLoader
from capsule_lightning.data.pictures import Seen
from capsule_lightning.data.statistics import Measures, brightness, channel_statistics, digests, measure, single_colored
from capsule_lightning.data.storage import choose, folders_for, place
from capsule_lightning.data.streamed_store import AHEAD, MeasuredPictures
from capsule_lightning.errors import InputError

STORED = ["memory", "shards", "originals"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch, tmp_path_factory):
    """Shards of seven pictures, so that a few files have several; and a cache of the test's own."""
    monkeypatch.setattr(shards, "MOST_IMAGES", 7)
    monkeypatch.setenv(storage.CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tree(tmp_path, write_image):
    """Forty odd files of two classes: formats, sizes, a turned one, a transparent one, one in two classes."""
    root = tmp_path / "tree"
    for number in range(34):
        suffix = ("png", "jpg", "webp", "bmp")[number % 4]
        write_image(root / "ab"[number % 2] / f"{number}.{suffix}", (9 + number % 3, 12, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise((14, 10), 90).convert("RGB").save(root / "a" / "turned.jpg", exif=exif)
    Image.new("RGBA", (12, 9), (200, 30, 10, 99)).save(root / "b" / "clear.png")
    Image.effect_noise((12, 9), 90).convert("CMYK").save(root / "b" / "ink.jpg")
    Image.fromarray(np.arange(108, dtype=np.uint16).reshape(9, 12) * 600).save(root / "a" / "deep.png")
    for letter in "ab":
        (root / letter / "twice.png").write_bytes((root / "a" / "0.png").read_bytes())
    return root


def make(root, stored, **options):
    options = {"image_size": (8, 8), "batch_size": 6, "seed": 5, "augmentation": PaddedCrop, **options}
    data = ImageFolderDataModule(str(root), storage=stored, **options)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def every_batch(data) -> list[ImageBatch]:
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    return [data.on_after_batch_transfer(batch, 0) for loader in loaders for batch in loader]


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        assert are_same(one, other)


def are_same(one, other):
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(are_same, one, other))
    return torch.equal(one, other)


@pytest.mark.parametrize("options", [{"folds": 3, "fold": 1}, {"val_size": 0.2, "balanced": True}])
def test_memory_shards_and_originals_give_the_same_to_the_bit(tree, options):
    memory, *others = [make(tree, stored, **options) for stored in STORED]
    expected = every_batch(memory)
    for data in others:
        assert_same(every_batch(data), expected)
        assert data.statistics == memory.statistics
        assert list(data.files_of("train")) == memory.files_of("train")
        assert repr(data.state_dict()) == repr(memory.state_dict())
        mine, theirs = (str(each).splitlines() for each in (data, memory))
        assert mine[:-1] == theirs[:-1]  # sizes, what is transparent, which are there twice
        assert "--data.storage" in mine[-1]


def test_split_folders_and_damaged_files_are_the_same_everywhere(tmp_path, write_tree):
    for split, count in (("train", 9), ("val", 4), ("test", 3)):
        write_tree(tmp_path / split, ["a", "b"], count=count)
    (tmp_path / "train/a/0.png").write_bytes(b"no image")
    memory, *others = [make(tmp_path, stored, skip_damaged=True) for stored in STORED]
    expected = every_batch(memory)
    for data in others:
        assert_same(every_batch(data), expected)
        assert data.met == memory.met
        assert "1 damaged and left out: train/a/0.png" in str(data)
    with pytest.raises(InputError, match=r"a/0\.png: cannot be read as an image"):
        make(tmp_path, "shards")


def test_groups_of_a_table_stay_together_in_shards(tree):
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*.*"))
    rows = [f"{name},{name[0]},{number // 3}" for number, name in enumerate(names)]
    (tree / "labels.csv").write_text("\n".join(["path,label,group", *rows]))

    def files(stored):
        data = ImageTableDataModule(str(tree / "labels.csv"), image_size=(8, 8), batch_size=4, storage=stored, folds=3)
        data.setup("fit")
        data.setup("test")
        return [*data.files_of("train"), *data.files_of("test"), data._val.tolist()]

    assert files("shards") == files("memory")


def test_label_sets_and_weights_of_a_table_are_the_same_everywhere(tree):
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*.*"))
    sets = ["|".join(word for n, word in enumerate(("cat", "dog", "emu")) if place % 7 >> n & 1) for place in range(99)]
    rows = [f"{name},{said},{place % 3}" for place, (name, said) in enumerate(zip(names, sets, strict=False))]
    (tree / "labels.csv").write_text("\n".join(["path,label,weight", *rows, "c.png,dog,1"]))
    (tree / "c.png").write_bytes(b"no image")

    def made(stored):
        options = {"image_size": (8, 8), "batch_size": 6, "augmentation": PaddedCrop, "skip_damaged": True}
        data = ImageTableDataModule(str(tree / "labels.csv"), label_separator="|", storage=stored, **options)
        data.prepare_data()
        data.setup("fit")
        data.setup("predict")
        return data

    memory, *others = map(made, STORED)
    expected = every_batch(memory)
    assert expected[0].labels.shape == (6, 2)
    for data in others:
        assert_same(every_batch(data), expected)
        predicted = zip(data.predict_dataloader(), memory.predict_dataloader(), strict=True)
        assert all(torch.equal(one.labels, other.labels) for one, other in predicted)
        assert data.class_counts().tolist() == memory.class_counts().tolist()


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("images", [None, "test"])
def test_a_test_or_a_prediction_prepares_nothing_to_train_on(tmp_path, write_tree, stored, images):
    for split in ("train", "val", "test"):
        write_tree(tmp_path / split, ["a", "b"], count=4)
    whole = make(tmp_path, stored, images=None if images is None else str(tmp_path / images))
    whole.setup("predict")
    expected = [*(whole.test_dataloader() if images is None else whole.predict_dataloader())]
    shutil.rmtree(tmp_path / ".prepared")
    for path in (tmp_path / "train").rglob("*.png"):
        path.write_bytes(b"nothing that could be read")
    first = next((tmp_path / "train/a").glob("*.png"))
    Image.new("RGB", (8, 8)).save(first)  # which tells the size
    stage = "test" if images is None else "predict"
    data = ImageFolderDataModule(
        str(tmp_path), image_size=(8, 8), batch_size=6, images=whole.predict_path, storage=stored
    )
    data.trainer = Mock(testing=stage == "test", predicting=stage == "predict", global_rank=0, world_size=1)
    data.trainer.strategy.root_device = torch.device("cpu")
    data.statistics = whole.statistics  # as a checkpoint has them
    data.prepare_data()
    data.setup(stage)
    loader = data.test_dataloader() if images is None else data.predict_dataloader()
    for one, other in zip(loader, expected, strict=True):
        assert are_same(one[:3], other[:3])
    assert not [path for path in (tmp_path / ".prepared").rglob("*") if path.name in ("train", "val")]


def test_folds_and_a_second_start_use_the_same_shards(tree, monkeypatch):
    make(tree, "shards", folds=2, fold=0)
    monkeypatch.setattr(sharded_trees, "make_shard", None)  # would be called
    make(tree, "shards", folds=2, fold=1)
    make(tree, "originals", val_size=0.3, seed=9)  # which needs no pixels, but what was measured on them


def test_the_set_of_a_run_stays_when_files_come_and_go(tree, write_image):
    for stored in ("memory", "shards"):
        root = tree.with_name(stored)
        shutil.copytree(tree, root)
        data = make(root, stored, val_size=0.2)
        state = data.state_dict()
        write_image(root / "a" / "new.png", (8, 8, 3))
        (root / "b" / "1.jpg").unlink()
        later = make(root, stored, val_size=0.2)
        later.load_state_dict(state)
        kept = {str(file) for split in ("train", "test") for file in later.files_of(split)}
        assert "a/new.png" not in kept
        assert kept < {str(file) for split in ("train", "test") for file in data.files_of(split)}
        assert later.store("train").measures if stored == "shards" else True


@pytest.mark.parametrize("stored", STORED)
def test_one_two_and_four_processes_and_a_resumed_one_see_the_same(tree, stored):
    data = make(tree, stored, batch_size=4)
    store, subset = data.store("train"), torch.arange(29)
    options = {"training": True, "num_draws": 3, "seed": 2}
    whole = list(ExactLoader(store, subset, 4, **options))
    for processes in (2, 4):
        ranks = [ExactLoader(store, subset, 4, rank=n, world_size=processes, **options) for n in range(processes)]
        for expected, *shares in zip(whole, *ranks, strict=True):
            together = [torch.stack(values, dim=1).flatten(0, 1) for values in zip(*shares, strict=True)]
            assert_same([together], [expected])
    first = ExactLoader(store, subset, 4, **options)
    seen = list(islice(first, 3))  # those that were read ahead are not counted
    later = ExactLoader(store, subset, 4, **options)
    later.load_state_dict(first.state_dict())
    assert_same([*seen, *later], whole)


class Counted:
    """Pictures that are their numbers, and how many of them have been read."""

    def __init__(self):
        self.read_so_far = 0

    def read(self, number, out):
        self.read_so_far += 1
        out[...] = number


@pytest.mark.parametrize("workers", [1, 3])
def test_a_few_batches_are_read_ahead_and_no_more(workers):
    pictures, labels = Counted(), torch.zeros(100, dtype=torch.int64)
    measures = Measures(labels, labels[:, None], labels[:, None], labels > 0)
    store = MeasuredPictures(pictures, torch.arange(100), labels, (1, 2, 2), measures, workers=workers)
    batches = iter(ExactLoader(store, torch.arange(100), 5, training=True))
    for number in range(3):
        batch = next(batches)
        assert batch.inputs[:, 0, 0, 0].tolist() == batch.indices.tolist()
        assert pictures.read_so_far <= 5 * (number + AHEAD + 1)
    batches.close()
    assert pictures.read_so_far <= 5 * (3 + AHEAD)


def test_what_is_measured_on_pictures_is_what_is_measured_on_a_store(tree):
    memory, streamed = (make(tree, stored).store("train") for stored in ("memory", "shards"))
    for ask in (channel_statistics, brightness, lambda s: digests(s).tolist(), lambda s: single_colored(s).tolist()):
        assert ask(memory) == ask(streamed)
    pixels = memory.inputs.double()
    mean, deviation = channel_statistics(memory)
    assert mean == pytest.approx((pixels.mean(dim=(0, 2, 3)) / 255).tolist(), rel=1e-12)  # of float64
    assert deviation == pytest.approx((pixels.std(dim=(0, 2, 3), correction=0) / 255).tolist(), rel=1e-9)
    assert measure(memory.inputs).squares.sum(dim=0).tolist() == pixels.square().sum(dim=(0, 2, 3)).tolist()


def shard_folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.rglob("records.npy"))


def test_preparing_goes_on_where_it_was_interrupted(tree, monkeypatch, capsys):
    whole = every_batch(make(tree, "memory"))
    made, really = [], sharded_trees.make_shard

    def interrupted(folder, paths, how):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(folder)
        really(folder, paths, how)

    monkeypatch.setattr(sharded_trees, "make_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tree, "shards")
    before = {folder: (folder / "images.npy").stat().st_mtime_ns for folder in shard_folders(tree)}
    assert len(before) == 2
    partial = next(iter(before)).with_name("000002")
    partial.mkdir()  # as a kill between two files would leave it, were it not made beside its place
    (partial / "images.npy").write_bytes(b"half")
    monkeypatch.setattr(sharded_trees, "make_shard", really)
    assert_same(every_batch(make(tree, "shards")), whole)
    assert len(shard_folders(tree)) == 6
    assert {folder: (folder / "images.npy").stat().st_mtime_ns for folder in before} == before
    assert not list(tree.rglob("*.partial"))


def test_a_file_that_changes_costs_its_own_shard(tree, write_image):
    make(tree, "shards")
    before = {folder: (folder / "records.npy").stat().st_mtime_ns for folder in shard_folders(tree)}
    write_image(tree / "b" / "9.jpg", (20, 20, 3))
    assert_same(every_batch(make(tree, "shards")), every_batch(make(tree, "memory")))
    after = {folder: (folder / "records.npy").stat().st_mtime_ns for folder in shard_folders(tree)}
    assert sum(after[folder] != before[folder] for folder in before) == 1


def shorter(path):
    path.write_bytes(path.read_bytes()[:-1])


def longer(path):
    path.write_bytes(path.read_bytes() + b"x")


def other_byte(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def huge(path):
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**40, 3, 8, 8)}
        np.lib.format.write_array_header_1_0(file, header)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def pickled(path):
    np.save(path, np.array([Harmful()], dtype=object), allow_pickle=True)


def raw_pickle(path):
    path.write_bytes(pickle.dumps(Harmful()))


HARMS = [shorter, longer, other_byte, huge, pickled, raw_pickle, Path.unlink]
BY_DAY = [("images.npy", shorter), ("images.npy", other_byte), ("records.npy", other_byte), ("records.npy", pickled)]


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        pytest.param(name, harm, marks=() if (name, harm) in BY_DAY else pytest.mark.nightly)
        for name in ("images.npy", "records.npy")
        for harm in HARMS
    ],
)
def test_a_damaged_shard_is_named_and_not_read(tree, name, harm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tree, "shards")
    folder = shard_folders(tree)[1]
    harm(folder / name)
    with pytest.raises(InputError) as raised:
        every_batch(make(tree, "shards"))
    assert str(folder) in str(raised.value)
    assert "remove this folder, it is made again" in str(raised.value)
    assert not Path("harmed").exists()
    shutil.rmtree(folder)
    assert_same(every_batch(make(tree, "shards")), every_batch(make(tree, "memory")))


@pytest.mark.parametrize("content", ["{", "[]", '{"fingerprint": 3}', None])
def test_a_shard_that_says_nonsense_is_named(tree, content):
    make(tree, "shards")
    source = shard_folders(tree)[0] / "source.json"
    found = json.loads(source.read_text())
    source.write_text(json.dumps({**found, "damaged": {"a": 3}}) if content is None else content)
    with pytest.raises(InputError, match=rf"{source.parent}: .* damaged"):
        make(tree, "shards")


def test_a_shard_that_is_cut_in_mid_training_is_named(tree):
    data = make(tree, "shards")
    shorter(shard_folders(tree)[0] / "images.npy")
    with pytest.raises(InputError, match="000000: the prepared set is damaged"):
        every_batch(data)


def test_a_file_that_goes_in_mid_training_is_named_and_left_out_if_allowed(tree, caplog):
    gone = "a/2.webp"
    data = make(tree, "originals", val_size=0, test_size=2)
    (tree / gone).unlink()
    with pytest.raises(InputError, match=gone):
        every_batch(data)
    (tree / gone).write_bytes((tree / "a/4.png").read_bytes())
    data = make(tree, "originals", val_size=0, test_size=2, skip_damaged=True)
    expected = list(data.train_dataloader())
    (tree / gone).unlink()
    place = [str(file) for file in data.files_of("train")].index(gone)
    for batch, whole in zip(data.train_dataloader(), expected, strict=True):
        kept = whole.indices != place
        assert_same([batch], [[values[kept] for values in whole]])
    assert f"{gone} " in caplog.text


def test_a_folder_that_cannot_be_written_leaves_the_shards_to_the_cache(tree, tmp_path, monkeypatch):
    expected = every_batch(make(tree, "memory"))
    shutil.rmtree(tree / ".prepared")
    (tree / ".prepared").touch()  # in the way of the folder, which stops even the superuser
    cache = Path(os.environ[storage.CACHE_VARIABLE])
    assert_same(every_batch(make(tree, "shards")), expected)
    assert len(shard_folders(cache)) == 6
    shutil.rmtree(cache)
    cache.touch()
    with pytest.raises(InputError, match=rf"cannot be written.*{storage.CACHE_VARIABLE}.*--data\.storage memory"):
        make(tree, "shards")
    assert_same(every_batch(make(tree, "memory")), expected)


def test_a_full_disk_is_known_before_anything_is_made(tree, monkeypatch):
    monkeypatch.setattr(storage, "free_disk", lambda folder: 1000)
    with pytest.raises(InputError, match=r"shards take \d+ KiB more, and 1 KiB are free"):
        make(tree, "shards")
    assert not shard_folders(tree)


@pytest.mark.parametrize(
    ("side", "memory", "disk", "expected"),
    [
        (4, 10**6, 0, "memory"),
        (4, 5000, 10**6, "shards"),
        (4, 5000, 5000, "originals"),
        (100, 5000, 10**9, "originals"),
    ],
)
def test_the_choice_follows_memory_disk_and_files_and_is_told(tree, monkeypatch, side, memory, disk, expected):
    monkeypatch.setattr(storage, "free_memory", lambda: memory)
    monkeypatch.setattr(storage, "free_disk", lambda folder: disk)
    paths = sorted(tree.rglob("*.*"))
    plan = choose(None, len(paths), paths, (3, side, side), folders_for(tree, "x", ""))
    assert plan.storage == expected
    assert f"{len(paths)} images take" in plan.reason


def test_the_choice_of_the_user_is_taken_and_checked(tree):
    assert "read from their files: 40 images take 8 KiB; as --data.storage says" in str(make(tree, "originals"))
    with pytest.raises(InputError, match="storage='disk': expected one of memory, shards, originals"):
        make(tree, "disk")


def test_two_ways_of_reading_do_not_replace_each_other(tree):
    usual = make(tree, "shards")
    before = every_batch(usual)
    make(tree, "shards", invert=True)
    assert_same(every_batch(usual), before)
    assert place(folders_for(tree, "x", "a")) != place(folders_for(tree, "x", "b"))


def test_what_was_met_is_counted_without_keeping_it():
    met = [Seen((2, 3), False, False, "color", False), Seen((3, 2), True, True, "gray", True)]
    tracemalloc.start()
    try:
        facts = facts_of((met[number % 3 // 2] for number in range(30_000)), (4, 6))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (facts.smallest, facts.largest) == ((2, 3), (3, 2))
    assert (facts.transparent, facts.animated, facts.cut, facts.reshaped) == (10_000, 10_000, 10_000, 10_000)
    assert list(facts.modes.items()) == [("color", 20_000), ("gray", 10_000)]
    assert peak < 30_000
