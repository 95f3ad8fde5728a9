"""What a network was trained on: kept with it, compared with other data, and believed only in its form."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.data.loader import MemoryStore
from capsule_lightning.data.mnist import FashionMNISTDataModule, MNISTDataModule
from capsule_lightning.data.smallnorb import SmallNORBDataModule
from capsule_lightning.data.trained_on import TrainedOn, read_trained_on, trained_on, unlike_training
from capsule_lightning.errors import InputError


@pytest.fixture
def digits() -> DigitsDataModule:
    data = DigitsDataModule(normalization="channel", root="/somewhere", seed=3)
    data.setup("fit")
    return data


def test_it_is_read_back_as_it_was(digits: DigitsDataModule) -> None:
    about = trained_on(digits)
    assert read_trained_on(about.plain(), "file") == about
    assert about.class_names == list("0123456789")
    assert about.in_shape == about.stored_shape == [1, 8, 8]
    assert about.normalization == "channel"
    pictures = digits.store("train").take(torch.arange(len(digits.store("train")))).float() / 255
    assert about.brightness[0] == pytest.approx(float(pictures.mean()), abs=1e-6)
    assert about.brightness[1] == pytest.approx(float(pictures.mean(dim=(1, 2, 3)).std(correction=0)), abs=1e-6)
    normalized = about.normalize(pictures)
    assert_close(normalized.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    assert_close(normalized.std(), torch.tensor(1.0), atol=1e-3, rtol=0)


def test_what_brings_images_to_the_input_is_stated_and_what_is_of_one_machine_is_not(digits: DigitsDataModule) -> None:
    slot = trained_on(digits).slot
    assert slot["class_path"].endswith("DigitsDataModule")
    assert slot["init_args"]["augmentation"] == {
        "class_path": "capsule_lightning.augmentations.geometry.Shift",
        "init_args": {"pixels": 1},
    }
    assert slot["init_args"]["seed"] == 3
    assert not {"root", "images", "download"} & set(slot["init_args"])


GOOD = {"name": "a", "class_names": ["x", "y"], "in_shape": [1, 4, 4]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"class_names": "xy"},
        {"class_names": [1, 2]},
        {"class_names": []},
        {"in_shape": [1, 4]},
        {"in_shape": [1, 0, 4]},
        {"stored_shape": ["a", "b", "c"]},
        {"normalization": "other"},
        {"normalization": "channel", "statistics": [[0.1, 0.2], [1.0, 1.0]]},
        {"normalization": "channel", "statistics": [[float("nan")], [1.0]]},
        {"brightness": [0.1]},
        {"brightness": ["a", "b"]},
        {"slot": {"class_path": "os.system"}},
        {"unheard": 1},
    ],
)
def test_another_form_is_refused_by_its_source(wrong: dict) -> None:
    assert read_trained_on(GOOD, "net.ckpt") is not None
    with pytest.raises(InputError, match=r"^net\.ckpt: what it says of its training images cannot be used") as refused:
        read_trained_on({**GOOD, **wrong}, "net.ckpt")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"class_names": list("1023456789")}, "in another order"),
        ({"class_names": list("abc")}, "3 classes a, b, c, and these data have 10"),
        ({"class_names": list("abcdefghij")}, "10 classes a, b, c"),
        ({"in_shape": [3, 8, 8]}, r"\(3, 8, 8\), and these data give \(1, 8, 8\)"),
        ({"in_shape": [1, 28, 28]}, r"\(1, 28, 28\), and these data give \(1, 8, 8\)"),
    ],
)
def test_data_that_are_not_the_networks_are_refused_by_name(change: dict, named: str) -> None:
    about = read_trained_on({"name": "a", "class_names": list("0123456789"), "in_shape": [1, 8, 8], **change}, "net")
    with pytest.raises(InputError, match=named):
        about.require_same(DigitsDataModule(), "net")


@pytest.mark.parametrize("data", [DigitsDataModule, MNISTDataModule, FashionMNISTDataModule, SmallNORBDataModule])
def test_other_data_are_normalized_as_the_network_was_trained(data: type) -> None:
    about = TrainedOn("a", list("xy"), [1, 4, 4], normalization="channel", statistics=[[0.4], [0.2]])
    other = data()
    about.normalizes(other)
    assert (other.normalization, other.statistics) == ("channel", ([0.4], [0.2]))
    plain = data()
    TrainedOn("a", list("xy"), [1, 4, 4]).normalizes(plain)
    assert plain.normalization == "none"


@pytest.mark.parametrize("asked", ["none", "per_image"])
def test_another_normalization_is_taken_if_it_is_asked_for(asked: str) -> None:
    other = MNISTDataModule(normalization=asked)
    TrainedOn("a", list("xy"), [1, 4, 4], normalization="channel", statistics=[[0.4], [0.2]]).normalizes(other)
    assert other.normalization == asked
    assert other.statistics == MNISTDataModule.statistics


def test_statistics_that_are_not_known_are_missed() -> None:
    with pytest.raises(InputError, match="mean and deviation"):
        TrainedOn("a", list("xy"), [1, 4, 4], normalization="channel").normalize(torch.zeros(1, 1, 4, 4))
    per_image = TrainedOn("a", list("xy"), [2, 3, 3], normalization="per_image").normalize(torch.rand(2, 2, 3, 3))
    assert_close(per_image.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("brightness", "usual", "expected"),
    [
        ([0.87, 0.85], (0.13, 0.04), (2, 0, True)),
        ([0.1, 0.2, 0.13], (0.13, 0.04), (0, 0, False)),
        ([0.1, 0.15], (0.9, 0.03), (0, 2, True)),  # white strokes, trained on black ones
        ([0.95], (0.5, 0.08), (1, 0, False)),  # inverted, it would be as strange
        ([0.51], (0.5, 0.0), (0, 0, False)),  # training images of one brightness
    ],
)
def test_images_unlike_those_of_training(brightness: list, usual: tuple, expected: tuple) -> None:
    assert unlike_training(torch.tensor(brightness), usual) == expected


class Stripes(ImageDataModule):
    """Data of one's own: no name, no stored shape, pixels that are no bytes."""

    class_names = ("thin\n", "thick")
    in_shape = (1, 4, 4)

    def load(self, split: str) -> None:
        raise AssertionError

    def open(self, split: str) -> MemoryStore:
        return MemoryStore(torch.rand(8, 1, 4, 4), torch.arange(8) % 2)


def test_data_of_ones_own_are_described_as_far_as_they_say() -> None:
    data = Stripes(batch_size=2, val_size=0)
    data.setup("fit")
    about = trained_on(data)
    assert (about.name, about.stored_shape, about.brightness) == ("Stripes", None, None)
    assert read_trained_on(about.plain(), "file") == about
    about.require_same(data, "net")
