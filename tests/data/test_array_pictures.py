"""Arrays of images without labels, which are predicted."""

import numpy as np
import pytest
import torch

from capsule_lightning.data import named_arrays
from capsule_lightning.data.array_pictures import find_array_pictures
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.image_files import read_files
from capsule_lightning.data.pictures import Reading
from capsule_lightning.data.statistics import unit
from capsule_lightning.data.streamed_pictures import StreamedArray
from capsule_lightning.errors import InputError

COLOR = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "arrays",
    [
        {"anything": COLOR},
        {"images": COLOR, "other": COLOR[:2]},
        {"test_images": COLOR, "train_images": COLOR[:2], "test_labels": np.zeros(5)},
        {"x_test": COLOR / 255, "y_test": np.zeros(5)},
        {"X": COLOR.transpose(0, 3, 1, 2), "y": np.zeros(5)},
    ],
)
def test_images_are_found_by_their_names(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    expected = torch.from_numpy(COLOR).movedim(-1, 1)
    assert torch.equal(find_array_pictures(tmp_path / "a.npz", (3, 8, 6), Reading()).read(), expected)
    assert torch.equal(find_array_pictures(tmp_path / "a.npz", (3, 8, 6), Reading(invert=True)).read(), 255 - expected)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"a": COLOR, "b": COLOR}, "expected one array, images or test_images; there are a, b"),
        ({"a": COLOR[:, :7]}, r"has images \(7, 6, 3\); expected \(8, 6, 3\)"),
        ({"a": COLOR[..., 0]}, r"has images \(8, 6\); expected \(8, 6, 3\)"),
        ({"a": COLOR - 7.5}, "float64 from -7.5 to"),
    ],
)
def test_other_images_are_refused(tmp_path, arrays, named):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=named):
        find_array_pictures(tmp_path / "a.npz", (3, 8, 6), Reading()).read()


@pytest.mark.parametrize(
    "images",
    [
        COLOR,
        COLOR / 255,
        COLOR.astype(np.uint16) * 257,
        COLOR.transpose(0, 3, 1, 2),
        np.asfortranarray(COLOR),
    ],
)
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_an_array_that_is_streamed_gives_what_is_read_at_once(tmp_path, monkeypatch, images, name):
    np.save(tmp_path / name, images) if name == "a.npy" else np.savez_compressed(tmp_path / name, x=images)
    monkeypatch.setattr(named_arrays, "_SLICE", 2 * images[0].nbytes)  # two images a slice
    for reading in (Reading(), Reading(invert=True), Reading(values=(0, 4080))):
        found = find_array_pictures(tmp_path / name, (3, 8, 6), reading)
        expected, store = found.read(), StreamedArray(found)
        assert len(store) == len(expected) == len(store.labels)
        for places in ([0, 1, 2], [3, 4], [1, 3], [4]):  # in order, back again, and a share of a batch
            assert torch.equal(store.take(torch.tensor(places)), expected[places])


def test_an_array_that_shrinks_while_it_is_streamed_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=COLOR / 255)
    store = StreamedArray(find_array_pictures(tmp_path / "a.npz", (3, 8, 6), Reading()))
    np.savez_compressed(tmp_path / "a.npz", x=COLOR[:2] / 255)
    with pytest.raises(InputError, match=r"a\.npz.*begin again"):
        store.take(torch.tensor([4]))


@pytest.mark.parametrize(
    ("array", "values", "expected"),
    [
        (COLOR * 16.0, (0, 4080), COLOR / 255),
        (COLOR.astype(np.uint16) * 16, (0, 4080), COLOR / 255),
        (COLOR.astype(np.uint16) * 16, (80, 2080), (COLOR * 16.0 - 80) / 2000),
        (COLOR, (0, 1), COLOR / 255),
        (COLOR, (0, 255), COLOR / 255),
        (COLOR % 2, (0, 1), COLOR % 2),
        (COLOR.astype(np.uint16) * 257, None, COLOR / 255),
    ],
    ids=["floats", "16-bits", "outside", "bytes-for-floats", "bytes", "truth", "16-bits-for-bytes"],
)
def test_values_are_those_of_the_images_trained_on(tmp_path, array, values, expected):
    np.savez(tmp_path / "a.npz", a=array)
    for invert in (False, True):
        found = unit(find_array_pictures(tmp_path / "a.npz", (3, 8, 6), Reading(invert=invert, values=values)).read())
        exact = torch.from_numpy(np.asarray(1 - expected if invert else expected, np.float64)).movedim(-1, 1)
        torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 1, 8, 8), (5, 8, 8, 1)])
def test_any_data_module_predicts_them_and_calls_them_by_their_numbers(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    data = DigitsDataModule(images=str(tmp_path / "a.npy"))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert torch.equal(batch.inputs, torch.from_numpy(pixels).view(5, 1, 8, 8))
    assert batch.labels.tolist() == [-1] * 5
    assert [data.name_of(number) for number in batch.indices.tolist()] == list("01234")


def test_image_files_are_gray_or_color(tmp_path, write_image):
    write_image(tmp_path / "a.png", (8, 8))
    with pytest.raises(InputError, match=r"a\.png: the network takes images of 2 channels.*--data\.images FILE\.npz"):
        read_files([tmp_path / "a.png"], (2, 8, 8))
