"""Folders of scans with more than 8 bits: none is cut off, and a run keeps its range."""

import numpy as np
import pytest
import torch
from PIL import Image

from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.data.deep_pictures import is_range
from capsule_lightning.data.image_folder import ImageFolderDataModule
from capsule_lightning.data.trained_on import read_trained_on, trained_on
from capsule_lightning.errors import InputError
from capsule_lightning.sharing.reader import ImageReader


@pytest.fixture
def scans(tmp_path):
    """Forty scans of 12 of 16 bits."""
    pixels = np.random.default_rng(0).integers(100, 4096, (40, 8, 8), dtype=np.uint16)
    for number, each in enumerate(pixels):
        path = tmp_path / "scans" / "ab"[number // 20] / f"{number:02}.{'png' if number % 3 else 'tif'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(path)
    return tmp_path / "scans", pixels


def of_scans(root, **options):
    return ImageFolderDataModule(
        str(root), **{"batch_size": 4, "channels": 1, "augmentation": NoAugmentation, **options}
    )


def values_of(data, pixels, split):
    """Scans of a split, as they are in the files."""
    return torch.from_numpy(pixels[[int(path.stem) for path in data.files_of(split)]].astype(np.float64)).unsqueeze(1)


def test_no_bit_of_scans_is_cut_off(scans):
    root, pixels = scans
    for _ in range(2):  # the second time from what is kept
        data = of_scans(root)
        data.setup("fit")
        data.setup("test")
        train, test = (values_of(data, pixels, split) for split in ("train", "test"))
        low, high = float(train.min()), float(train.max())
        for split, values in (("train", train), ("test", test)):
            torch.testing.assert_close(
                data.store(split).inputs.double(), (values - low) / (high - low), atol=1e-6, rtol=0
            )
        told = f"values are floats, {low:.6g} becomes 0 and {high:.6g} becomes 1 (--data.value_range)"
        assert told in str(data)
        batch = data.on_after_batch_transfer(next(iter(data.loader("test"))), 0)
        mean, deviation = (values[0] for values in data.statistics)
        torch.testing.assert_close(batch.images, (data.store("test").inputs[:4] - mean) / deviation)
        assert batch.pictures.min() >= 0


def test_the_range_of_scans_can_be_chosen_and_dark_and_light_exchanged(scans):
    root, pixels = scans
    data = of_scans(root, value_range=(0, 4095), invert=True)
    data.setup("test")
    expected = 1 - values_of(data, pixels, "test") / 4095
    torch.testing.assert_close(data.store("test").inputs.double(), expected, atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="value_range="):
        of_scans(root, value_range=(4095, 0))


def test_scans_that_come_later_do_not_change_the_range_of_a_run(scans):
    root, _ = scans
    data = of_scans(root)
    data.setup("fit")
    before, state, about = data.store("train").inputs.clone(), data.state_dict(), trained_on(data)
    assert about.value_range == state["values"]
    Image.fromarray(np.full((8, 8), 60_000, np.uint16)).save(root / "a" / "00.png")
    Image.fromarray(np.full((8, 8), 60_000, np.uint16)).save(root / "b" / "99.png")
    again = of_scans(root)
    again.setup("fit")
    again.load_state_dict(state)
    assert again.reading.values == tuple(state["values"])
    kept = {path.stem: image for path, image in zip(again.files_of("train"), again.store("train").inputs, strict=True)}
    for path, image in zip(data.files_of("train"), before, strict=True):
        torch.testing.assert_close(kept[path.stem], image)
    reader = ImageReader(read_trained_on(about.plain(), "here"))
    names = [root / path for path in data.files_of("train")[:3]]
    torch.testing.assert_close(reader.pictures(names), before[:3].clamp(0, 1))
    torch.testing.assert_close(
        reader(names), (before[:3] - data.statistics[0][0]) / data.statistics[1][0], atol=1e-5, rtol=1e-5
    )


def test_a_run_on_bytes_of_scans_goes_on_with_bytes(scans):
    root, pixels = scans
    old = of_scans(root)
    old.keep_values(None)  # as a version did that kept the upper 8 bits
    old.setup("fit")
    data = of_scans(root)
    data.setup("fit")
    data.load_state_dict(old.state_dict())
    expected = (values_of(data, pixels, "train").long() >> 8).to(torch.uint8)
    assert torch.equal(data.store("train").inputs, expected)
    data.store("test")
    assert "40 of 16 bits, of which the upper 8 are kept" in str(data)


def test_bytes_among_scans_are_refused(scans, write_image):
    root, _ = scans
    write_image(root / "b" / "photo.png", (8, 8))
    with pytest.raises(InputError, match=r"b/photo\.png: .*gray of 8 bits, expected one channel of 16 bits"):
        of_scans(root).setup("fit")


@pytest.mark.parametrize(
    ("values", "good"),
    [
        ([0, 4095], True),
        ((-1.5, 2.0), True),
        ([7, 7], False),
        ([9, 3], False),
        ([0, 1.0], False),
        ([0.0, float("inf")], False),
        ([False, True], False),
        ([0, 1, 2], False),
        ("01", False),
        (None, False),
    ],
)
def test_a_range_is_two_numbers_of_a_kind_one_below_the_other(values: object, good: bool) -> None:
    assert bool(is_range(values)) is good
