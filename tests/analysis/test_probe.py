"""What a linear probe reads: from poses that are known, and of images that are transformed."""

import csv
from functools import partial
from io import StringIO

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.testing import assert_close

from capsule_lightning.analysis.probe import (
    PARAMETERS,
    RIDGE,
    Parameter,
    cross_validated_r2,
    move,
    probe,
    probe_network,
    thicken,
)
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.models.cnn import BaselineCNN

VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
#: "Images" of one pixel whose value is the amount.
AMOUNT = Parameter("amount", VALUES, lambda images, value: torch.full_like(images, value))


def loop_r2(features: np.ndarray, targets: np.ndarray, folds: np.ndarray, ridge: float) -> float:
    """The docstring's equations, one example and one fold at a time."""
    errors = 0.0
    for fold in sorted(set(folds.tolist())):
        x, y = features[folds != fold], targets[folds != fold]
        mean, deviation = x.mean(axis=0), np.sqrt(((x - x.mean(axis=0)) ** 2).mean(axis=0))
        z = (x - mean) / deviation
        matrix = z.T @ z / len(z) + ridge * np.eye(x.shape[1])
        weights = np.linalg.inv(matrix) @ (z.T @ (y - y.mean()) / len(z))
        for example, target in zip(features[folds == fold], targets[folds == fold], strict=True):
            guess = y.mean() + sum(w * v for w, v in zip(weights, (example - mean) / deviation, strict=True))
            errors += (target - min(max(guess, y.min()), y.max())) ** 2
    return 1 - errors / ((targets - targets.mean()) ** 2).sum()


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.5])
def test_r2_is_that_of_a_loop(ridge):
    random = np.random.default_rng(0)
    features, folds = random.normal(size=(2, 30, 4)) * [1, 5, 0.1, 2] + [0, 3, 1, -2], np.arange(30) % 4
    targets = features[0] @ [0.3, 0.1, 2, 0] + 0.5 * random.normal(size=30)
    found = cross_validated_r2(torch.from_numpy(features), torch.from_numpy(targets), torch.from_numpy(folds), ridge)
    expected = [loop_r2(side, targets, folds, ridge) for side in features]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_what_does_not_vary_tells_nothing():
    targets, folds = torch.arange(10.0), torch.arange(10) % 5
    found = cross_validated_r2(torch.full((10, 1), 0.3), targets, folds)
    nothing = cross_validated_r2(torch.zeros(10, 1), targets, folds)
    assert_close(found, nothing)
    assert float(found) <= 0


def test_a_unit_that_speaks_once_sends_no_prediction_far_off():
    targets, folds = torch.arange(40.0) % 7, torch.arange(40) % 5
    features = 1e-6 * torch.randn(40, 1)
    features[3] = 10
    assert -1 < float(cross_validated_r2(features, targets, folds)) < 0.2


def features(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Poses of three dimensions: the amount itself, its cube, its square, and noise."""
    amount = images.flatten(1)[:, :1]
    noise = torch.randn(len(images), 1, generator=torch.Generator().manual_seed(int(100 * amount[0]) + 1000))
    return torch.cat([amount, amount**3, amount**2, noise], dim=1)


def test_a_pose_that_is_the_amount_is_read_whole_noise_not_at_all_and_the_nonlinear_as_far_as_a_line_goes():
    found = probe(features, torch.zeros(400, 1, 1, 1), torch.arange(400) % 2, [AMOUNT])
    amount, cube, square, noise = found.single[:, 0].tolist()
    values = np.array(VALUES)
    slope = (values**4).mean() / (values**6).mean() / (1 + RIDGE)  # of the line through the cubes
    line = 1 - ((values - (slope * values**3).clip(-3, 3)) ** 2).mean() / (values**2).mean()
    assert amount == pytest.approx(1, abs=1e-5)
    assert cube == pytest.approx(line, abs=1e-6)
    assert line < 0.95
    assert -0.02 < square <= 1e-9
    assert -0.02 < noise < 0.005
    assert float(found.whole[0]) == pytest.approx(1, abs=1e-4)
    assert found.of_class.shape == (2, 4, 1)
    assert_close(found.single, found.of_class.mean(dim=0))


def test_each_class_has_its_own_line():
    def turned(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :1] * torch.where(labels == 0, 1.0, -5.0).unsqueeze(1)

    found = probe(turned, torch.zeros(20, 1, 1, 1), torch.arange(20) % 2, [AMOUNT])
    assert float(found.single[0, 0]) == pytest.approx(1, abs=1e-5)


def test_classes_of_one_image_are_left_out_and_nothing_else_is_refused():
    labels = torch.tensor([0, 0, 0, 1])
    assert probe(features, torch.zeros(4, 1, 1, 1), labels, [AMOUNT]).classes == [0]
    with pytest.raises(InputError, match="at least 2 images of some class"):
        probe(features, torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]), [AMOUNT])


def test_table_has_a_row_for_each_dimension_and_one_for_all():
    found = probe(features, torch.zeros(40, 1, 1, 1), torch.arange(40) % 2, [AMOUNT])
    rows = list(csv.reader(StringIO(found.csv())))
    assert rows[0] == ["dimension", "amount"]
    assert [row[0] for row in rows[1:]] == ["1", "2", "3", "4", "all"]
    np.testing.assert_allclose([float(row[1]) for row in rows[1:5]], found.single[:, 0], atol=1e-6)


def test_every_parameter_leaves_images_alone_at_one_of_its_values():
    images = torch.rand(2, 1, 28, 28)
    for parameter in PARAMETERS:
        same = [v for v in parameter.values if torch.allclose(parameter.change(images, v), images, atol=1e-4)]
        assert same == [1.0 if parameter.name == "scale" else 0.0], parameter.name
        assert len(set(parameter.values)) == len(parameter.values) == 7


@pytest.mark.parametrize(("width", "pixels"), [(28, 1), (56, 2)])
def test_shifts_are_in_pixels_of_an_image_28_wide(width, pixels):
    images = torch.rand(1, 1, width, width)
    assert_close(move(images, right=1)[..., pixels:], images[..., :-pixels], atol=1e-4, rtol=0)
    assert_close(move(images, down=1)[..., pixels:, :], images[..., :-pixels, :], atol=1e-4, rtol=0)


@pytest.mark.parametrize("pixels", [-1.5, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0])
def test_thickness_is_gray_scale_morphology(pixels):
    images = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    filtered = ndimage.grey_dilation if pixels > 0 else ndimage.grey_erosion
    for n in range(2):
        expected, left = images[n, 0].numpy(), abs(pixels)
        while left > 0:
            grown, share = filtered(expected, size=(3, 3), mode="nearest"), min(left, 1)
            expected, left = (1 - share) * expected + share * grown, left - 1
        np.testing.assert_allclose(thicken(images, pixels)[n, 0], expected, atol=1e-12)


def test_capsules_are_those_of_the_true_class_of_normalized_pictures():
    net = CapsNet(
        (1, 8, 8),
        3,
        encoder=partial(SabourEncoder, channels=4, kernel_size=3, num_types=2, dim=4, primary_kernel_size=3),
        decoder=None,
        dim=5,
    ).eval()
    pictures, labels = torch.rand(12, 1, 8, 8), torch.arange(12) % 3
    parameter = PARAMETERS[0]
    found = probe_network(net, lambda x: 2 * x - 1, pictures, labels, [parameter], batch_size=5)

    def poses(images: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.stack([net(2 * images[n : n + 1] - 1).poses[0, of[n]] for n in range(len(images))])

    expected = probe(poses, pictures, labels, [parameter])
    assert found.what == "the capsule of the true class"
    assert_close(found.single, expected.single, atol=1e-4, rtol=1e-4)
    assert_close(found.whole, expected.whole, atol=1e-3, rtol=1e-3)


def test_a_convolutional_network_is_probed_before_its_last_layer():
    net = BaselineCNN((1, 8, 8), 3, channels=(2,), hidden=(6,)).eval()
    found = probe_network(net, lambda x: x, torch.rand(12, 1, 8, 8), torch.arange(12) % 3, PARAMETERS[:2])
    assert "last dense layer" in found.what
    assert found.single.shape == (6, 2)
    assert not any(module._forward_pre_hooks for module in net.modules())  # nothing is left behind
    assert found.single.abs().sum() > 0
