"""smallNORB: its file format to the byte, scaling, views, viewpoints, toys held out, and every fault named."""

import gzip
import hashlib
import os
import shutil
import struct
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.data import smallnorb
from capsule_lightning.data.smallnorb import HOME, MD5, SmallNORBDataModule, scale
from capsule_lightning.errors import InputError

REAL_ROOT = os.environ.get("CAPSULE_LIGHTNING_DATA", "")
TRAIN = "smallnorb-5x46789x9x18x6x2x96x96-training"
TEST = "smallnorb-5x01235x9x18x6x2x96x96-testing"
BYTES, INTEGERS = 0x1E3D4C55, 0x1E3D4C54
VIEWPOINTS = ((0, 30), (2, 4), (3, 0), (8, 10), (1, 28), (5, 34))  # elevation, azimuth


def matrix(array, magic=None, dims=None):
    """The format's bytes: magic, number of dimensions, at least three dimensions, values; all little-endian."""
    dims = array.shape if dims is None else dims
    magic = (BYTES if array.dtype == np.uint8 else INTEGERS) if magic is None else magic
    padded = (*dims, 1, 1)[: max(len(dims), 3)]
    return struct.pack(f"<Ii{len(padded)}i", magic, len(dims), *padded) + array.tobytes()


def make_set(instances):
    """Noise, and the facts of it: every class, toy and viewpoint once, shuffled."""
    random = np.random.default_rng(len(instances))
    facts = [
        (category, instance, elevation, azimuth, number % 6)
        for number, (category, instance, (elevation, azimuth)) in enumerate(product(range(5), instances, VIEWPOINTS))
    ]
    facts = random.permutation(np.array(facts, dtype="<i4"))
    return random.integers(0, 256, (len(facts), 2, 96, 96), dtype=np.uint8), facts


SETS = {TRAIN: make_set((4, 6, 9)), TEST: make_set((0, 1))}


def write(path, content, md5s=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    if md5s is not None:
        md5s[path.name] = hashlib.md5(path.read_bytes()).hexdigest()


def write_sets(folder, suffix=".mat.gz", md5s=None):
    for stem, (pairs, facts) in SETS.items():
        for kind, array in (("dat", pairs), ("cat", facts[:, 0].copy()), ("info", facts[:, 1:].copy())):
            write(folder / f"{stem}-{kind}{suffix}", matrix(array), md5s)


@pytest.fixture
def md5s(monkeypatch):
    """The checksums of the files that a test writes stand in for those of the complete ones."""
    known = dict(MD5)
    monkeypatch.setattr(smallnorb, "MD5", known)
    return known


@pytest.fixture
def root(tmp_path, md5s):
    write_sets(tmp_path / "smallnorb", md5s=md5s)
    return tmp_path


def make(root, **options):
    return SmallNORBDataModule(str(root), download=False, **{"batch_size": 30, **options})


def ready(root, stage="fit", **options):
    data = make(root, **options)
    data.prepare_data()
    data.setup(stage)
    return data


def no_reading(*args, **kwargs):
    raise AssertionError("the original files were read again")


@pytest.mark.parametrize("suffix", [".mat.gz", ".mat"])
@pytest.mark.parametrize("folder", ["", "smallnorb"])
def test_original_files_are_read_exactly(tmp_path, md5s, suffix, folder):
    write_sets(tmp_path / folder, suffix, md5s if suffix == ".mat.gz" else None)
    data = make(tmp_path, size=96)
    data.prepare_data()
    for split, (pairs, facts) in zip(("train", "test"), SETS.values(), strict=True):
        stored = data.load(split)
        np.testing.assert_array_equal(stored.images.numpy(), pairs)
        np.testing.assert_array_equal(stored.labels.numpy(), facts[:, 0].astype(np.int64), strict=True)
        np.testing.assert_array_equal(data.facts[split].numpy(), facts)


def shrunk(image, size):
    """One image ``(H, W)`` through a triangle as wide as a pixel of the output, one output pixel at a time."""
    step = len(image) / size
    weights = np.zeros((size, len(image)))
    for out, into in product(range(size), range(len(image))):
        weights[out, into] = max(0, 1 - abs((into + 0.5) / step - (out + 0.5)))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.array(
        [[sum(a * (b @ row) for a, row in zip(y, image, strict=True) if a) for b in weights] for y in weights]
    )


@pytest.mark.parametrize("size", [24, 48, 64, 96])
def test_scaling_equals_the_loop(size):
    pairs = SETS[TRAIN][0][:1]
    scaled = scale(pairs, size)
    assert scaled.shape == (1, 2, size, size)
    for found, image in zip(scaled[0].numpy(), pairs[0].astype(np.float64), strict=True):
        assert np.abs(found - shrunk(image, size)).max() < 0.5 + 1e-3


def test_images_are_scaled_one_by_one():
    pairs = SETS[TRAIN][0]
    many = np.concatenate([pairs] * 6)  # more than are scaled at a time
    assert_close(scale(many, 48), scale(pairs, 48).repeat(6, 1, 1, 1), rtol=0, atol=0)


def test_mono_makes_each_view_an_example(root):
    pairs, mono = ready(root), ready(root, stereo=False)
    assert (pairs.in_shape, mono.in_shape) == ((2, 32, 32), (1, 32, 32))
    both, single = pairs.load("train"), mono.load("train")
    assert len(single.labels) == 2 * len(both.labels)
    for view in (0, 1):
        assert_close(single.images[view::2, 0], both.images[:, view])
        assert_close(single.labels[view::2], both.labels)
        assert_close(mono.facts["train"][view::2], pairs.facts["train"])


FAMILIAR = {"azimuth": (3, {30, 32, 34, 0, 2, 4}), "elevation": (2, {0, 1, 2})}


@pytest.mark.parametrize("stereo", [True, False])
@pytest.mark.parametrize("viewpoints", FAMILIAR)
def test_viewpoints_of_training_are_familiar_and_the_test_takes_either(root, viewpoints, stereo):
    column, familiar = FAMILIAR[viewpoints]
    counts = {}
    for asked in ("novel", "familiar"):
        data = make(root, viewpoints=viewpoints, test_viewpoints=asked, stereo=stereo)
        for split, facts in zip(("train", "test"), (facts for _, facts in SETS.values()), strict=True):
            stored = data.load(split)
            inside = np.isin(facts[:, column], list(familiar))
            expected = facts[inside if split == "train" or asked == "familiar" else ~inside]
            np.testing.assert_array_equal(data.facts[split][:: 1 if stereo else 2].numpy(), expected)
            assert stored.labels.tolist() == data.facts[split][:, 0].tolist()
            counts[split, asked] = len(stored.labels)
    assert counts["train", "novel"] == counts["train", "familiar"]
    assert counts["test", "novel"] + counts["test", "familiar"] == len(SETS[TEST][1]) * (1 if stereo else 2)


def test_the_images_of_a_viewpoint_are_those_of_its_facts(root):
    everything, some = make(root).load("test"), make(root, viewpoints="azimuth").load("test")
    novel = ~np.isin(SETS[TEST][1][:, 3], [30, 32, 34, 0, 2, 4])
    assert_close(some.images, everything.images[torch.from_numpy(novel)])


def indices(loader):
    return torch.cat([batch.indices for batch in loader]).sort().values


@pytest.mark.parametrize("stereo", [True, False])
def test_a_toy_is_held_out_with_all_its_views(root, stereo):
    data = ready(root, val_instance=6, stereo=stereo, batch_size=1)
    train, val = indices(data.train_dataloader()), indices(data.val_dataloader())
    instances = data.facts["train"][:, 1]
    assert instances[val].unique().tolist() == [6]
    assert instances[train].unique().tolist() == [4, 9]
    assert len(train) + len(val) == len(instances)
    assert data.load("train").labels[val].unique().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("options", "count"), [({"val_size": 0}, 0), ({"val_size": 0, "val_instance": 6}, 0), ({}, 9)])
def test_val_size_holds_out_images_or_none(root, options, count):
    data = ready(root, **options, batch_size=1)
    assert len(data.val_dataloader()) == count
    assert len(data.train_dataloader()) == len(SETS[TRAIN][1]) - count


def test_fake_images_have_no_toys(tmp_path):
    data = ready(tmp_path, val_instance=6, fake=True, val_size=20)
    assert sum(len(batch.labels) for batch in data.val_dataloader()) == 20


def standardized(pair):
    return (pair - pair.mean()) / pair.std()


def test_training_sees_random_patches_standardized_as_a_pair(root):
    data = ready(root, val_size=0, batch_size=30)
    stored = make(root).load("train").images.double().numpy() / 255
    places = set()
    for batch in data.train_dataloader():
        found = data.on_after_batch_transfer(batch, 0)
        for n, (top, left, _, bright, contrast) in enumerate(batch.draws.tolist()):
            top, left = int(top * 17), int(left * 17)
            places.add((top, left))
            pair = stored[batch.indices[n], :, top : top + 32, left : left + 32] + 63 / 255 * (2 * bright - 1)
            means = pair.mean(axis=(1, 2), keepdims=True)
            pair = (pair - means) * (1 + 0.8 * (2 * contrast - 1)) + means
            np.testing.assert_allclose(found.images[n].numpy(), standardized(pair), atol=1e-4)
            np.testing.assert_allclose(found.pictures[n].numpy(), pair.clip(0, 1), atol=1e-5)
    assert len(places) > 50


def test_evaluation_sees_the_central_patch(root):
    data = ready(root, "test", batch_size=60)
    (batch,) = data.test_dataloader()
    found = data.on_after_batch_transfer(batch, 0).images.numpy()
    for images, pair in zip(found, make(root).load("test").images.numpy() / 255, strict=True):
        np.testing.assert_allclose(images, standardized(pair[:, 8:40, 8:40]), atol=1e-4)


def test_the_original_files_are_read_once(root, monkeypatch):
    first = {split: ready(root).load(split) for split in ("train", "test")}
    monkeypatch.setattr(smallnorb, "read_matrix", no_reading)
    shutil.rmtree(root / "smallnorb")
    for split, expected in first.items():
        again = ready(root).load(split)
        assert_close(again.images, expected.images)
        assert_close(again.labels, expected.labels)
    mono = ready(root, stereo=False, viewpoints="elevation", val_instance=9)  # of the same copy
    assert mono.facts["train"][:, 2].max() == 2


def test_each_size_has_a_copy_of_its_own(root):
    sizes = (48, 64)
    for _ in range(2):
        for size in sizes:
            assert ready(root, size=size).load("train").images.shape[-2:] == (size, size)
        shutil.rmtree(root / "smallnorb", ignore_errors=True)


def test_write_prepared_keeps_pairs_and_facts_whatever_the_options(root):
    options = {"stereo": False, "viewpoints": "azimuth"}
    assert make(root, **options).write_prepared() == root / "prepared" / "smallnorb" / "48"
    shutil.rmtree(root / "smallnorb")
    data = make(root)
    assert data.load("train").images.shape == (90, 2, 48, 48)
    np.testing.assert_array_equal(data.facts["train"].numpy(), SETS[TRAIN][1])


def test_a_root_that_cannot_be_written_is_read(root):
    (root / "prepared").touch()  # in the way of the folder, which stops even the superuser
    assert len(ready(root).load("train").labels) == 90
    with pytest.raises(InputError, match=r"smallnorb/48/train: cannot be written; choose another --data\.root"):
        make(root).write_prepared()


def test_a_download_fetches_what_is_missing(tmp_path, md5s, monkeypatch):
    write_sets(tmp_path / "remote", md5s=md5s)
    fetched = []

    def download_url(url, folder, filename, md5):
        assert url == HOME + filename
        assert md5 == md5s[filename]
        fetched.append(filename)
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "remote" / filename, folder)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    root = tmp_path / "root"
    with pytest.raises(InputError, match=r"a download +is off"):
        make(root).prepare_data()
    assert fetched == []
    data = SmallNORBDataModule(str(root))
    data.prepare_data()
    assert sorted(fetched) == sorted(MD5)
    assert len(data.load("test").labels) == 60


def test_nothing_there_names_the_places_and_the_remedy(tmp_path):
    with pytest.raises(InputError) as raised:
        SmallNORBDataModule(str(tmp_path)).prepare_data()
    places = [
        rf"1\. a prepared file +{tmp_path}/prepared/smallnorb/48/train",
        rf"2\. the original files +{tmp_path}: {TRAIN}-dat\.mat\.gz: no such file",
        r"4\. a download +failed: .*no network",
    ]
    raised.match(rf"(?s)the train images of smallnorb were not found.*{'.*'.join(places)}.*--config digits\.yaml")


NUMBERS = SETS[TEST][1][:, 0].copy()


@pytest.mark.parametrize(
    ("kind", "content", "named"),
    [
        ("cat", b"", "cut short, 0 bytes are less than the header"),
        ("cat", matrix(NUMBERS)[:19], "cut short, 19 bytes are less than the header"),
        ("cat", matrix(NUMBERS)[:-1], r"239 bytes of values, expected 240 of \(60,\)"),
        ("cat", matrix(NUMBERS) + b"x", r"241 bytes of values, expected 240 of \(60,\)"),
        ("dat", matrix(SETS[TEST][0])[:-5000], r"bytes of values, expected 1105920 of \(60, 2, 96, 96\)"),
        ("cat", matrix(NUMBERS, magic=BYTES), "magic number 0x1e3d4c55, expected 0x1e3d4c54"),
        ("dat", matrix(SETS[TEST][0], magic=INTEGERS), "magic number 0x1e3d4c54, expected 0x1e3d4c55"),
        ("dat", matrix(SETS[TEST][0], magic=0x554C3D1E), "magic number 0x554c3d1e"),  # the other end first
        ("info", matrix(NUMBERS), r"1 dimensions \[60\], expected 2 of \['N', 4\]"),
        ("info", matrix(SETS[TEST][1]), r"2 dimensions \[60, 5\], expected 2 of \['N', 4\]"),
        ("cat", matrix(NUMBERS[:50]), r"testing-\*\.mat do not belong together: they hold .*'cat': 50, 'info': 60"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, kind, content, named):
    write_sets(tmp_path, ".mat")
    path = tmp_path / f"{TEST}-{kind}.mat"
    write(path, content)
    with pytest.raises(InputError, match=named) as raised:
        make(tmp_path).prepare_data()
    assert path.name in str(raised.value) or "belong together" in named
    assert not (tmp_path / "prepared" / "smallnorb" / "48" / "test").exists()


def test_a_packed_file_of_another_md5_is_named(root):
    path = root / "smallnorb" / f"{TRAIN}-info.mat.gz"
    path.write_bytes(path.read_bytes()[:-100])
    found = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=rf"{path.name}: md5 {found}, expected .*fetch it again from {HOME}"):
        make(root).prepare_data()


@pytest.mark.parametrize("kind", ["dat", "cat", "info"])
def test_a_missing_file_is_named(root, kind):
    name = f"{TEST}-{kind}.mat.gz"
    (root / "smallnorb" / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file here or in {root}/smallnorb"):
        make(root).prepare_data()


def test_every_file_has_its_md5():
    assert set(MD5) == {f"{stem}-{kind}.mat.gz" for stem in (TRAIN, TEST) for kind in ("dat", "cat", "info")}
    assert len(set(MD5.values())) == 6


def test_class_folders_are_refused(tmp_path, write_tree):
    write_tree(tmp_path / "smallnorb" / "train", SmallNORBDataModule.class_names, shape=(48, 48))
    with pytest.raises(InputError, match="smallnorb/train: class folders do not say which toy"):
        make(tmp_path).prepare_data()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": 0}, "size=0: expected 1 to 96"),
        ({"size": 97}, "size=97: expected 1 to 96"),
        ({"viewpoints": "lighting"}, "viewpoints='lighting': expected one of none, azimuth, elevation"),
        ({"test_viewpoints": "all"}, "test_viewpoints='all': expected one of novel, familiar"),
        ({"val_instance": 3}, "val_instance=3: expected one of 4, 6, 7, 8, 9"),
        ({"images": "photos"}, r"images=photos: an image file holds one view of the two; set --data\.stereo false"),
    ],
)
def test_bad_values_are_refused(tmp_path, options, named):
    with pytest.raises(InputError, match=named):
        make(tmp_path, **options)


def test_a_patch_larger_than_the_images_is_refused(tmp_path):
    with pytest.raises(InputError, match="size=32: larger than the images of 24x24"):
        _ = make(tmp_path, size=24).in_shape


def test_mono_predicts_image_files(tmp_path, write_image):
    write_image(tmp_path / "a.png", (96, 96))
    data = make(tmp_path, stereo=False, images=str(tmp_path / "a.png"))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert data.on_after_batch_transfer(batch, 0).images.shape == (1, 1, 32, 32)


@pytest.mark.slow
@pytest.mark.skipif(not (Path(REAL_ROOT) / "smallnorb").is_dir(), reason="CAPSULE_LIGHTNING_DATA holds no smallNORB")
def test_real_smallnorb_is_every_toy_from_everywhere():
    data = make(REAL_ROOT)
    for split, toys in (("train", [4, 6, 7, 8, 9]), ("test", [0, 1, 2, 3, 5])):
        stored = data.load(split)
        assert stored.images.shape == (24_300, 2, 48, 48)
        expected = product(range(5), toys, range(9), range(0, 36, 2), range(6))
        assert sorted(map(tuple, data.facts[split].tolist())) == list(expected)
