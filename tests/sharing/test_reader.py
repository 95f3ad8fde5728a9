"""Images as people have them become the input of a network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from capsule_lightning import load_network
from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.augmentations.patch import RandomPatch
from capsule_lightning.data.trained_on import TrainedOn
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.sharing.reader import ImageReader

GRAY = TrainedOn("a", list("xy"), [1, 4, 5], [1, 4, 5], normalization="channel", statistics=[[0.5], [0.25]])
COLOR = TrainedOn("a", list("xy"), [3, 4, 4], [3, 8, 8])


def test_files_are_scaled_brought_to_the_shape_and_normalized(tmp_path: Path) -> None:
    for name, value in (("a.png", 0), ("b.png", 255)):
        Image.new("L", (10, 8), value).save(tmp_path / name)
    found = ImageReader(GRAY)([tmp_path / "a.png", str(tmp_path / "b.png")])
    assert_close(found, torch.tensor([-2.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 4, 5))
    assert ImageReader(GRAY)(str(tmp_path / "a.png")).shape == (1, 1, 4, 5)
    assert ImageReader(COLOR, RandomPatch(4))(tmp_path / "a.png").shape == (1, 3, 4, 4)
    assert ImageReader(COLOR)(tmp_path / "a.png").shape == (1, 3, 4, 4)  # what cuts them is not known


@pytest.mark.parametrize(
    "pixels",
    [
        torch.full((4, 5), 255, dtype=torch.uint8),
        torch.full((1, 4, 5), 255, dtype=torch.uint8),
        np.full((1, 1, 4, 5), 255, np.uint8),
        torch.ones(4, 5),
        np.ones((1, 4, 5)),
        [[1.0] * 5] * 4,
    ],
)
def test_pixels_of_any_usual_form(pixels: object) -> None:
    assert_close(ImageReader(GRAY)(pixels), torch.full((1, 1, 4, 5), 2.0))
    assert ImageReader(GRAY)(np.zeros((3, 4, 5), np.uint8)).shape == (3, 1, 4, 5)


VECTORS = TrainedOn("a", list("xy"), [3, 1, 1], [3, 1, 1], normalization="channel", statistics=[[1, 2, 3], [2, 2, 2]])


@pytest.mark.parametrize("vectors", [[3, 4, 5], np.array([[3, 4, 5]]), torch.tensor([[3.0, 4, 5]])[..., None, None]])
def test_vectors_of_any_usual_form(vectors: object) -> None:
    assert_close(ImageReader(VECTORS)(vectors), torch.ones(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("vectors", "named"),
    [
        ([1, 2], r"vectors of shape \(1, 2\): expected \(batch, 3\)"),
        (np.zeros((3, 2)), r"shape \(3, 2\): expected \(batch, 3\)"),
        (np.zeros((3, 3, 2)), r"\(3, 3, 2\): expected"),
        (5, r"shape \(\): expected"),
        ("a.png", "vectors of 3 numbers"),
    ],
)
def test_what_are_no_vectors_is_refused(vectors: object, named: str) -> None:
    with pytest.raises(InputError, match=named):
        ImageReader(VECTORS)(vectors)


@pytest.mark.parametrize(
    ("pixels", "named"),
    [
        (torch.zeros(5, 4), r"\(1, 1, 5, 4\): expected \(batch, 1, 4, 5\)"),
        (torch.zeros(2, 3, 4, 5), "expected"),
        (torch.full((4, 5), 200.0), "numbers from 0 to 1"),
        (torch.full((4, 5), float("nan")), "numbers from 0 to 1"),
        (torch.zeros(4, 5).long(), "uint8 from 0 to 255"),
        ([], "no images"),
        ("none.png", "none.png"),
    ],
)
def test_other_pixels_are_refused(pixels: object, named: str) -> None:
    with pytest.raises(InputError, match=named):
        ImageReader(GRAY)(pixels)


def test_a_network_says_classes_names_lengths_and_poses(tmp_path: Path) -> None:
    picture = Image.new("L", (280, 280))
    picture.paste(255, (130, 40, 150, 240))
    picture.save(tmp_path / "one.png")
    net = load_network("efficient_capsnet_mnist")
    classes, names, lengths, poses = net.predict([tmp_path / "one.png"] * 3)
    assert (classes.tolist(), names) == ([1, 1, 1], ["1", "1", "1"])
    assert_close(poses.norm(dim=-1), lengths, atol=1e-5, rtol=0)
    one = net.train().predict(tmp_path / "one.png", batch_size=1)
    assert net.training
    assert_close(one.poses, poses[:1], atol=1e-5, rtol=0)


def test_a_network_that_was_not_loaded_takes_its_input() -> None:
    found = CapsNet((1, 20, 20), 3).predict(torch.rand(2, 1, 20, 20))
    assert set(found.names) <= {"0", "1", "2"}
    with pytest.raises(InputError, match="images of shape"):
        CapsNet((1, 20, 20), 3).predict(torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize("name", ["x.ckpt", "runs/digits/one", "efficient_capsnet"])
def test_a_name_that_leads_nowhere_is_answered_with_what_would(name: str) -> None:
    with pytest.raises(InputError, match=r"no such checkpoint; expected .* shipped network"):
        load_network(name)


def test_augmentations_are_not_random_here() -> None:
    class Chance(Augmentation):
        num_draws = 1

        def train(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
            raise AssertionError

    assert ImageReader(GRAY, Chance())(torch.zeros(4, 5)).shape == (1, 1, 4, 5)
