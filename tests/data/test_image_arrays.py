"""Images in arrays: every layout and type, the same batches as from class folders, and every fault named."""

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data import named_arrays
from capsule_lightning.data.array_files import map_array
from capsule_lightning.data.array_pictures import find_array_pictures
from capsule_lightning.data.image_arrays import ImageArrayDataModule
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.trained_on import read_trained_on, trained_on
from capsule_lightning.errors import InputError
from capsule_lightning.sharing.reader import ImageReader

GRAY = np.random.default_rng(0).integers(0, 256, (40, 6, 7), dtype=np.uint8)
COLOR = np.random.default_rng(1).integers(0, 256, (40, 6, 7, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4


@pytest.fixture
def make(tmp_path):
    """Makes data of arrays in an archive, without augmentation and with a small batch."""

    def make(arrays, **options):
        np.savez_compressed(tmp_path / "pictures.npz", **arrays)
        return ImageArrayDataModule(
            str(tmp_path / "pictures.npz"),
            **{"augmentation": NoAugmentation, "batch_size": 4, "val_size": 4, **options},
        )

    return make


def one(images=GRAY, labels=LABELS, **more):
    return {"images": images, "labels": labels, **more}


def medmnist(images=COLOR, labels=LABELS[:, None]):
    cuts = {"train": slice(0, 20), "val": slice(20, 28), "test": slice(28, 40)}
    return {f"{s}_{kind}": a[cut] for s, cut in cuts.items() for kind, a in (("images", images), ("labels", labels))}


def kept(data):
    """All images that are kept, in the order of the file if it is split as `medmnist` splits it."""
    return torch.cat([data.load("train").images, data.load("test").images])


def told(data):
    data.setup("fit")
    return str(data)


# The same as class folders.


def batches(data):
    data.setup()
    loader, found = data.train_dataloader(), []
    for epoch in range(2):
        loader.set_epoch(epoch)
        found += [data.on_after_batch_transfer(batch, 0) for batch in loader]
    for each in (data.val_dataloader(), data.test_dataloader()):
        found += [data.on_after_batch_transfer(batch, 0) for batch in each]
    return found


@pytest.mark.parametrize("splits", [False, True], ids=["one", "splits"])
def test_arrays_train_as_class_folders_do_to_the_last_bit(tmp_path, write_tree, splits):
    classes, arrays = ["cat", "dog", "emu"], {}
    for split, count in (("train", 12), ("val", 4), ("test", 4)) if splits else (("", 20),):
        folder = tmp_path / "photos" / split
        write_tree(folder, classes, count=count, shape=(6, 7, 3))
        paths = sorted(folder.glob("*/*.png"))
        prefix = f"{split}_" if splits else ""
        arrays[f"{prefix}images"] = np.stack([np.asarray(Image.open(path)) for path in paths])
        arrays[f"{prefix}labels"] = np.array([path.parent.name for path in paths])
    np.savez_compressed(tmp_path / "pictures.npz", **arrays)
    options = {"batch_size": 8, "seed": 3}
    photos = ImageFolderDataModule(str(tmp_path / "photos"), **options)
    pictures = ImageArrayDataModule(str(tmp_path / "pictures.npz"), **options)
    expected, found = batches(photos), batches(pictures)
    assert pictures.class_names == photos.class_names
    assert pictures.statistics == photos.statistics
    assert pictures.brightness() == photos.brightness()
    assert len(found) == len(expected) > 8
    for mine, theirs in zip(found, expected, strict=True):
        for name in ("images", "pictures", "labels", "indices"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name


# Names and splits.


def test_splits_that_are_there_are_taken_as_they_are(make):
    data = make(medmnist())
    data.setup()
    assert (data.in_shape, data.class_names) == ((3, 6, 7), ["0", "1", "2", "3"])
    assert torch.equal(kept(data), torch.from_numpy(COLOR).movedim(-1, 1))
    assert torch.equal(data.store("train").labels, torch.from_numpy(LABELS[:28]))
    assert torch.equal(data.store("test").labels, torch.from_numpy(LABELS[28:]))
    assert data._val.tolist() == list(range(20, 28))
    assert data._train.tolist() == list(range(20))
    assert "20 to train on, 8 to validate on (val_images), 12 to test on" in str(data)


def test_images_to_validate_on_are_left_out_if_nothing_is_to_be_held_out(make):
    data = make(medmnist(), val_size=0)
    data.setup()
    assert (len(data._train), len(data._val), len(data.store("test"))) == (20, 0, 12)


@pytest.mark.parametrize(
    ("images", "labels"), [("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_images", "{}_labels"), ("{}", "of_{}")]
)
def test_usual_names_are_known_and_others_can_be_given(make, images, labels):
    arrays = {}
    for split, cut in (("train", slice(0, 28)), ("test", slice(28, 40))):
        arrays |= {images.format(split): GRAY[cut], labels.format(split): LABELS[cut]}
    names = {"images_name": images, "labels_name": labels} if images == "{}" else {}
    assert torch.equal(kept(make(arrays, **names)), torch.from_numpy(GRAY).unsqueeze(1))


@pytest.mark.parametrize("names", [("X", "y"), ("x", "y"), ("images", "labels"), ("pixels", "of {0} what")])
def test_a_test_set_is_split_off_the_same_for_every_seed(make, names):
    arrays = dict(zip(names, (GRAY, LABELS), strict=True))
    given = {"images_name": names[0], "labels_name": names[1]} if names[0] == "pixels" else {}
    data, other = make(arrays, **given), make(arrays, seed=5, **given)
    train, test = data.load("train"), data.load("test")
    assert test.labels.bincount().tolist() == [2] * 4
    assert len({image.numpy().tobytes() for image in torch.cat([train.images, test.images])}) == 40
    assert torch.equal(other.load("test").images, test.images)
    assert "8 to test on (--data.test_size 0.2)" in told(data)


def test_each_image_is_tested_on_in_one_fold(make):
    numbered = GRAY.copy()
    numbered[:, 0, 0] = np.arange(40)
    tested = []
    for fold in range(5):
        data = make(one(numbered), folds=5, fold=fold)
        found = data.load("test")
        assert found.labels.bincount().tolist() == [2] * 4
        assert f"8 to test on (--data.fold {fold} of --data.folds 5)" in told(data)
        tested += found.images[:, 0, 0, 0].tolist()
    assert sorted(tested) == [*range(40)]


def test_a_word_for_each_image_is_its_split(make):
    words = np.array(["val", "train", "train", "test", "train"] * 8)
    data = make(one(labels=np.arange(40) // 5 % 4, split=words))
    data.setup()
    rows = torch.from_numpy(GRAY).unsqueeze(1)
    for split, store, places in (("train", "train", data._train), ("val", "train", data._val), ("test", "test", None)):
        images = data.store(store).inputs if places is None else data.store(store).inputs[places]
        assert torch.equal(images, rows[words == split])


def test_a_folder_of_plain_bytes_stays_on_disk(tmp_path, monkeypatch):
    maps = []
    monkeypatch.setattr(named_arrays, "map_array", lambda *given: maps.append(map_array(*given)) or maps[-1])
    for name, array in medmnist(COLOR.transpose(0, 3, 1, 2).copy()).items():
        if not name.startswith("val"):
            np.save(tmp_path / f"{name}.npy", array)
    data = ImageArrayDataModule(str(tmp_path), batch_size=4, val_size=4)
    data.setup()
    images = data.store("train").inputs
    assert any(np.shares_memory(images.numpy(), each) for each in maps)
    assert torch.equal(images, torch.from_numpy(COLOR[:20]).movedim(-1, 1))


# Layouts.


@pytest.mark.parametrize(
    ("images", "channels_last", "shape"),
    [
        (GRAY, None, (1, 6, 7)),
        (GRAY, True, (1, 6, 7)),
        (GRAY[..., None], None, (1, 6, 7)),
        (COLOR, None, (3, 6, 7)),
        (COLOR.transpose(0, 3, 1, 2), None, (3, 6, 7)),
        (COLOR, False, (6, 7, 3)),
        (np.concatenate([COLOR, COLOR], axis=-1), True, (6, 6, 7)),
        (COLOR[..., :2], None, (2, 6, 7)),
    ],
)
def test_channels_are_first_or_last(make, images, channels_last, shape):
    data = make(one(images), channels_last=channels_last)
    assert data.in_shape == shape
    expected = images[:, None] if images.ndim == 3 else images
    first = expected if images.ndim == 3 or shape == images.shape[1:] else np.moveaxis(images, -1, 1)
    found = {image.numpy().tobytes() for image in kept(data)}
    assert found == {np.ascontiguousarray(image).tobytes() for image in first}
    batch = next(iter((data.setup("fit"), data.train_dataloader())[1]))
    assert data.on_after_batch_transfer(batch, 0).images.shape == (4, *shape)
    assert f"images {images.shape} are taken as (images, " in str(data)


@pytest.mark.parametrize("place", ["archive", "folder"])
def test_column_major_arrays_are_read(tmp_path, place):
    arrays = medmnist(np.asfortranarray(COLOR))
    path = tmp_path / ("a.npz" if place == "archive" else "")
    if place == "archive":
        np.savez(path, **{name: np.asfortranarray(array) for name, array in arrays.items()})
    else:
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", np.asfortranarray(array))
    data = ImageArrayDataModule(str(path), batch_size=4)
    assert torch.equal(kept(data), torch.from_numpy(COLOR).movedim(-1, 1))


def test_a_few_rows_are_read_at_a_time(make, monkeypatch):
    monkeypatch.setattr(named_arrays, "_SLICE", 3 * COLOR[0].nbytes)
    assert torch.equal(kept(make(medmnist())), torch.from_numpy(COLOR).movedim(-1, 1))


def test_there_is_never_more_than_the_result_and_a_slice(make, monkeypatch):
    monkeypatch.setattr(named_arrays, "_SLICE", 2**18)
    images = np.zeros((40, 256, 256), np.float32)
    data = make(one(images), test_size=4)
    data._code()
    tracemalloc.start()
    data.load("train")  # 2.4 MB in bytes, which torch holds, of 10 MB in the file
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


# Types.


@pytest.mark.parametrize(
    ("images", "expected", "note"),
    [
        (GRAY, GRAY, ""),
        (GRAY > 100, np.where(GRAY > 100, 255, 0), "bool: true is white"),
        (GRAY / 255, GRAY, "float64 from 0 to 1, times 255"),
        ((GRAY / 255).astype(np.float32), GRAY, "float32 from 0 to 1, times 255"),
        (GRAY / 255 * 0.9999999, GRAY, "times 255"),
        (GRAY.astype(np.float16), GRAY, "float16 from 0 to 255, taken as bytes"),
        (GRAY.astype(np.int64), GRAY, "int64 from 0 to 255, taken as bytes"),
        (GRAY.astype(">i2"), GRAY, "int16 from 0 to 255, taken as bytes"),
        (GRAY.astype(np.uint16), GRAY, "uint16 from 0 to 255, taken as bytes"),
    ],
)
def test_what_is_the_same_in_bytes_is_kept_so_and_told(make, images, expected, note):
    data = make(medmnist(images))
    assert torch.equal(kept(data), torch.from_numpy(expected.astype(np.uint8)).unsqueeze(1))
    lines = told(data).splitlines()[1:]
    assert note in "".join(lines)
    assert len(lines) == 3 + (images.dtype != np.uint8)


WIDE = np.random.default_rng(2).integers(300, 4096, (40, 6, 7), dtype=np.uint16)  # 12 of 16 bits
LOW, HIGH = float(WIDE[:20].min()), float(WIDE[:20].max())


@pytest.mark.parametrize(
    ("images", "low", "high"),
    [
        (WIDE, LOW, HIGH),
        (WIDE.astype(">u2"), LOW, HIGH),
        (WIDE.astype(np.int16) - 2000, LOW - 2000, HIGH - 2000),
        (WIDE / 8000.0, 0, 1),
        ((WIDE / 8000).astype(np.float16), 0, 1),
        (WIDE / 20, 0, 255),
        (WIDE / 20 - 30, LOW / 20 - 30, HIGH / 20 - 30),
    ],
    ids=["12-bits", "other-endian", "signed", "floats", "half", "to-255", "any"],
)
def test_no_bit_is_cut_off(make, images, low, high):
    data = make(medmnist(images), val_size=0)  # 20 images to train on
    expected = (images[[*range(20), *range(28, 40)]].astype(np.float64) - low) / (high - low)
    torch.testing.assert_close(kept(data).double(), torch.from_numpy(expected).unsqueeze(1), atol=1e-6, rtol=0)
    assert f"as floats: {low:.6g} becomes 0 and {high:.6g} becomes 1" in told(data)
    inverted = kept(make(medmnist(images), val_size=0, invert=True))
    torch.testing.assert_close(inverted, 1 - kept(data), atol=1e-6, rtol=0)


def test_values_that_become_0_and_1_can_be_chosen(make):
    data = make(medmnist(WIDE), value_range=(0, 4095))
    torch.testing.assert_close(kept(data), torch.from_numpy(WIDE / 4095.0).float().unsqueeze(1))
    assert data.state_dict() == {}
    data.setup("fit")
    assert data.state_dict()["values"] == [0, 4095]


def test_each_band_of_many_is_normalized_by_the_training_images(make):
    cubes = np.random.default_rng(3).normal(np.arange(30) * 100, np.arange(1, 31), (40, 6, 7, 30))
    data = make(medmnist(cubes), channels_last=True, val_size=0)
    data.setup("fit")
    assert data.in_shape == (30, 6, 7)
    low, high = cubes[:20].min(), cubes[:20].max()
    shares = (cubes[:20] - low) / (high - low)
    mean, deviation = data.statistics
    np.testing.assert_allclose(mean, shares.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(deviation, shares.std(axis=(0, 1, 2)), rtol=1e-5)
    (batch,) = [data.on_after_batch_transfer(each, 0) for each in data.loader("train", torch.arange(4))]
    expected = (cubes[:4] - cubes[:20].mean(axis=(0, 1, 2))) / cubes[:20].std(axis=(0, 1, 2))
    np.testing.assert_allclose(batch.images, np.moveaxis(expected, -1, 1), atol=1e-3)


def test_a_run_keeps_its_range_and_tells_those_who_use_its_network(make, tmp_path):
    data = make(medmnist(WIDE))
    data.setup("fit")
    state, about = data.state_dict(), trained_on(data)
    assert about.value_range == [LOW, HIGH]
    other = make(medmnist((WIDE * 2).astype(np.uint16)))
    other.setup("fit")
    before = kept(other)
    other.load_state_dict(state)
    low, high = about.value_range
    torch.testing.assert_close(kept(other), torch.from_numpy((WIDE * 2.0 - low) / (high - low)).float().unsqueeze(1))
    assert not torch.allclose(before, kept(other))
    assert other.store("train").inputs.max() > 1.5  # what was open has been read again
    np.save(tmp_path / "new.npy", WIDE[:3])
    prepared = ImageReader(read_trained_on(about.plain(), "here"))
    pictures = find_array_pictures(tmp_path / "new.npy", (1, 6, 7), prepared.reading).read()
    torch.testing.assert_close(pictures, data.store("train").inputs[:3])


def test_bytes_are_those_of_all_splits(make):
    arrays = medmnist(GRAY.astype(np.float32))
    arrays["test_images"] = np.ones_like(arrays["test_images"])
    assert make(arrays).load("test").images.max() == 1
    arrays["test_images"] = arrays["test_images"] / 2
    assert make(arrays).load("test").images.max() == 0.5 / 255


def test_dark_and_light_are_exchanged_on_demand(make):
    assert torch.equal(kept(make(medmnist(), invert=True)), 255 - kept(make(medmnist())))


# Labels.


@pytest.mark.parametrize(
    ("labels", "class_names", "names"),
    [
        (LABELS, None, ["0", "1", "2", "3"]),
        (LABELS.astype(np.float32), None, ["0", "1", "2", "3"]),
        (LABELS.astype(np.uint8)[:, None], None, ["0", "1", "2", "3"]),
        (LABELS * 10 - 5, None, ["-5", "5", "15", "25"]),
        (np.array(["ant", "bee", "cat", "dog"])[LABELS], None, ["ant", "bee", "cat", "dog"]),
        (np.array([b"ant", b"bee", b"cat", b"dog"])[LABELS], None, ["ant", "bee", "cat", "dog"]),
        (np.eye(4)[LABELS], None, ["0", "1", "2", "3"]),
        (np.eye(4, dtype=bool)[LABELS], list("wxyz"), list("wxyz")),
        (LABELS, list("wxyz"), list("wxyz")),
        (LABELS, list("vwxyz"), list("vwxyz")),
        (LABELS + 1, list("wxyz"), list("wxyz")),
    ],
)
def test_labels_are_numbers_words_or_columns(make, labels, class_names, names):
    data = make(one(labels=labels), class_names=class_names, val_size=0)
    assert data.class_names == names
    train, test = data.load("train"), data.load("test")
    label_of = {image.tobytes(): int(label) for image, label in zip(GRAY, LABELS, strict=True)}
    for split in (train, test):
        assert [label_of[image.numpy().tobytes()] for image in split.images] == split.labels.tolist()
    assert ("labels are the columns, of 4" in told(data)) == (labels.ndim == 2 and labels.shape[1] == 4)


def test_class_names_of_words_give_their_order(make):
    names = np.array(["small", "medium", "large", "huge"])
    data = make(one(labels=names[LABELS]), class_names=[*names])
    assert data.load("test").labels.bincount().tolist() == [2] * 4
    label_of = {image.tobytes(): int(label) for image, label in zip(GRAY, LABELS, strict=True)}
    test = data.load("test")
    assert [label_of[image.numpy().tobytes()] for image in test.images] == test.labels.tolist()


# Faults.


FAULTS = {
    "lengths": (one(labels=LABELS[:30]), {}, "images has 40 images and labels 30 labels"),
    "names": ({"pics": GRAY, "labs": LABELS}, {}, r"there are 'labs', 'pics'; name them with --data\.images_name"),
    "names-given": (one(), {"images_name": "a", "labels_name": "b"}, "expected a and b; there are 'images', 'labels'"),
    "name-alone": (one(), {"images_name": "images"}, "images_name=images, labels_name=None: expected both"),
    "no-labels": ({"train_images": GRAY}, {}, "no array 'train_labels'; there are train_images"),
    "empty": (one(GRAY[:0], LABELS[:0]), {}, r"images: is empty, \(0, 6, 7\)"),
    "no-rows": (one(GRAY[:, :0]), {}, r"is empty, \(40, 0, 7\)"),
    "objects": (one(np.array([None] * 40)), {}, "pickles.*, which are never loaded"),
    "object-labels": (one(labels=np.array(["a", 1] * 20, dtype=object)), {}, "pickles"),
    "flat": (one(GRAY.reshape(40, -1)), {}, r"has 2 dimensions, \(40, 42\); expected images \(N, H, W\)"),
    "ambiguous": (one(COLOR[:, :3, :3]), {}, r"cannot tell which of \(40, 3, 3, 3\).*--data\.channels_last"),
    "many-channels": (one(np.zeros((40, 6, 7, 5), np.uint8)), {}, r"--data\.channels_last"),
    "text": (one(np.full((40, 6, 7), "a")), {}, "holds <U1; expected images as numbers"),
    "complex": (one(GRAY * 1j), {}, "holds complex128"),
    "range": (one(GRAY * 3.0), {"value_range": (9, 3)}, r"value_range=\[9, 3\]: expected the value that becomes 0"),
    "range-nan": (one(GRAY * 3.0), {"value_range": (0, float("nan"))}, "value_range="),
    "nan": (one(np.where(GRAY == 7, np.nan, GRAY)), {}, "NaN or infinite"),
    "infinite": (one(np.where(GRAY == 7, np.inf, GRAY)), {}, "NaN or infinite"),
    "types": ({**medmnist(), "test_images": COLOR[28:] / 255}, {}, "holds float64, and .*train_images uint8"),
    "sizes": (
        {**medmnist(), "test_images": COLOR[28:, :5]},
        {},
        r"test_images: has images \(5, 7, 3\); expected \(6, 7",
    ),
    "one-class": (one(labels=LABELS * 0), {}, "only the label 0 to train on; expected two"),
    "fractions": (one(labels=LABELS + 0.5), {}, "labels: has 0.5; expected whole numbers"),
    "nan-labels": (one(labels=np.where(LABELS == 1, np.nan, 0)), {}, "labels: has nan"),
    "huge-labels": (one(labels=LABELS * 1e300), {}, "labels: has 1e"),
    "rounded-labels": (one(labels=np.where(LABELS == 1, 2.0**53, 0)), {}, "labels: has 9007199254740992"),
    "several": (one(labels=1 - np.eye(4)[LABELS]), {"several_labels": False}, "several classes, or none; leave it out"),
    "columns": (one(labels=np.stack([LABELS] * 2, axis=1)), {}, "has 2 columns; expected one"),
    "cube": (one(labels=LABELS[:, None, None]), {}, r"holds \(40, 1, 1\) int64"),
    "unknown-label": (
        {**medmnist(), "test_labels": np.full((12, 1), 7)},
        {},
        r"test_labels: has the labels 7, which no image to train on has; expected 0, 1, 2, 3",
    ),
    "words-and-numbers": ({**medmnist(), "val_labels": np.full(8, "1")}, {}, "val_labels: has the labels 1"),
    "few-names": (one(), {"class_names": ["a", "b"]}, "2 names, and .*has the labels 0, 1, 2, 3"),
    "same-names": (one(), {"class_names": list("aabc")}, "all of them different"),
    "other-names": (one(labels=np.array(list("abcd"))[LABELS]), {"class_names": list("abce")}, "has the labels d"),
    "split-words": (one(split=np.array(["train", "tset"] * 20)), {}, "split: has tset; expected train, val or test"),
    "split-length": (one(split=np.array(["train"] * 9)), {}, r"split: holds \(9,\)"),
    "split-none": (one(split=np.array(["test"] * 40)), {}, "no image to train on"),
    "test-size": (one(), {"test_size": 0}, "test_size=0: expected a fraction"),
    "folds": (one(), {"folds": 11}, r"folds=11: the class 0 has only 10 examples"),
    "folds-own-test": (medmnist(), {"folds": 3}, r"folds=3: these data have test images of their own \(test_images"),
    "test-size-small": (one(), {"test_size": 0.01}, r"test_size=0\.01: leaves no image to test on of the 40"),
    "rare": (one(labels=np.minimum(np.arange(40), 3)), {}, "0, 1, 2 with 1 example"),
}


@pytest.mark.parametrize(("arrays", "options", "named"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_used_is_refused_in_one_line(make, arrays, options, named):
    with pytest.raises(InputError, match=named) as raised:
        make(arrays, **options).setup()
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 600


# The split belongs to the run, and what a network says of its data.


def test_the_split_of_a_run_is_kept(make, monkeypatch):
    lines = []
    monkeypatch.setattr("capsule_lightning.data.module.rank_zero_info", lines.append)
    first = make(one(), seed=0)
    first.setup("fit")
    other = make(one(), seed=4)
    other.setup("fit")
    assert not torch.equal(other._val, first._val)
    other.load_state_dict(first.state_dict())
    assert torch.equal(other._val, first._val)
    assert other.seed == 0
    assert any("are those that this run began with" in line for line in lines)


def test_a_network_says_what_it_was_trained_on_without_the_place(make):
    data = make(medmnist(), normalization="channel")
    data.setup("fit")
    about = trained_on(data)
    assert (about.name, list(about.class_names), list(about.stored_shape)) == ("image_arrays", list("0123"), [3, 6, 7])
    assert "path" not in about.slot["init_args"]
    assert about.slot["init_args"]["test_size"] == 0.2
