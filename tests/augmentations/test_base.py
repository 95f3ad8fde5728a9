"""Augmentation: equality with plain loops, every draw reached and independent, bad values refused."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.augmentations.base import standardize
from capsule_lightning.augmentations.geometry import Affine, PaddedCrop, Shift, affine
from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.augmentations.patch import RandomPatch
from capsule_lightning.errors import InputError

LARGEST = 1 - 2**-24  # the float32 below 1


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def images(random):
    return torch.rand(25, 3, 7, 6, generator=random)


def shifted(image, down, right):
    """``image (C, H, W)`` moved by whole pixels, zeros moving in, one pixel at a time."""
    out = np.zeros_like(image)
    channels, rows, columns = image.shape
    for c, y, x in product(range(channels), range(rows), range(columns)):
        if 0 <= y + down < rows and 0 <= x + right < columns:
            out[c, y + down, x + right] = image[c, y, x]
    return out


def patched(image, draws, size, brightness, contrast):
    """The patch of ``image (C, H, W)`` that five draws choose, one step after the other."""
    top, left = (int(u * (n - size + 1)) for u, n in zip(draws, image.shape[1:], strict=False))
    out = image[:, top : top + size, left : left + size]
    if draws[2] < 0.5:
        out = out[:, :, ::-1]
    out = out + brightness * (2 * draws[3] - 1)
    factor = 1 + contrast * (2 * draws[4] - 1)
    return np.stack([(channel - channel.mean()) * factor + channel.mean() for channel in out])


@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_shift_equals_the_loop_for_every_offset(images, pixels):
    offsets = list(product(range(-pixels, pixels + 1), repeat=2))
    draws = (torch.tensor(offsets) + pixels + 0.5) / (2 * pixels + 1)
    moved = Shift(pixels).train(images[: len(offsets)], draws)
    expected = [shifted(i, -y, -x) for i, (y, x) in zip(images.numpy(), offsets, strict=False)]
    assert_close(moved, torch.from_numpy(np.stack(expected)), rtol=0, atol=0)


@pytest.mark.parametrize("draw", [0.0, LARGEST])
@pytest.mark.parametrize("pixels", range(1, 6))
def test_shift_goes_as_far_as_the_draws(images, pixels, draw):
    step = pixels if draw == 0 else -pixels
    moved = Shift(pixels).train(images[:1], torch.full((1, 2), draw))
    assert_close(moved[0], torch.from_numpy(shifted(images[0].numpy(), step, step)), rtol=0, atol=0)


def test_shift_reaches_all_offsets_equally_often(random):
    count = 20_000
    point = torch.zeros(count, 1, 5, 5)
    point[:, 0, 2, 2] = 1
    landed = Shift(2).train(point, torch.rand(count, 2, generator=random)).sum(dim=(0, 1))
    assert (landed - count / 25).abs().max() < 5 * (count / 25 * 24 / 25) ** 0.5  # five standard deviations


@pytest.mark.parametrize("make", [Shift, PaddedCrop, lambda: RandomPatch(4)])
def test_each_image_has_its_own_draws(images, random, make):
    augment = make()
    draws = torch.rand(25, augment.num_draws, generator=random)
    together = augment.train(images, draws)
    alone = torch.cat([augment.train(images[i : i + 1], draws[i : i + 1]) for i in range(25)])
    assert_close(together, alone)
    same = augment.train(images[:1].expand(25, -1, -1, -1), draws)
    assert len({tuple(image.flatten().tolist()) for image in same}) > 15


@pytest.mark.parametrize("flip", [True, False])
def test_padded_crop_equals_the_loop(images, random, flip):
    draws = torch.rand(25, 3, generator=random)
    expected = []
    for image, (row, column, side) in zip(images.numpy(), draws.tolist(), strict=True):
        moved = shifted(image, 3 - int(row * 7), 3 - int(column * 7))
        expected.append(moved[:, :, ::-1] if flip and side < 0.5 else moved)
    assert_close(PaddedCrop(3, flip).train(images, draws), torch.from_numpy(np.stack(expected)), rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 4, 6])
def test_random_patch_equals_the_loop(images, random, size):
    draws = torch.rand(25, 5, generator=random)
    patches = RandomPatch(size, brightness=0.2, contrast=0.7).train(images, draws)
    expected = [patched(i, d, size, 0.2, 0.7) for i, d in zip(images.numpy(), draws.numpy(), strict=True)]
    assert_close(patches, torch.from_numpy(np.stack(expected)))


def test_random_patch_goes_as_far_as_the_code_of_the_paper():
    gray = torch.full((2, 1, 24, 24), 0.5)
    draws = torch.full((2, 5), 0.5)
    draws[:, 3] = torch.tensor([0.0, LARGEST])
    assert_close(RandomPatch().train(gray, draws)[:, 0, 0, 0], 0.5 + torch.tensor([-63.0, 63.0]) / 255)

    draws[:, 3:] = torch.tensor([[0.5, 0.0], [0.5, LARGEST]])
    noise = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    patches = RandomPatch().train(noise, draws)
    assert_close(patches.std(dim=(1, 2, 3)) / noise.std(dim=(1, 2, 3)), torch.tensor([0.2, 1.8]))
    assert_close(patches.mean(dim=(1, 2, 3)), noise.mean(dim=(1, 2, 3)))


@pytest.mark.parametrize(("size", "top", "left"), [(4, 1, 1), (5, 1, 0), (6, 0, 0), (1, 3, 2)])
def test_random_patch_evaluates_the_center(images, size, top, left):
    expected = images[:, :, top : top + size, left : left + size]
    assert_close(RandomPatch(size).evaluate(images), expected, rtol=0, atol=0)


@pytest.mark.parametrize("make", [NoAugmentation, Shift, Affine, PaddedCrop, lambda: RandomPatch(5)])
def test_training_and_evaluation_come_out_in_the_stated_shape(images, random, make):
    augment = make()
    shape = (25, *augment.out_shape((3, 7, 6)))
    assert augment.train(images, torch.rand(25, augment.num_draws, generator=random)).shape == shape
    assert augment.evaluate(images).shape == shape


@pytest.mark.parametrize("augment", [NoAugmentation(), Shift(), Affine(), PaddedCrop()])
def test_evaluation_leaves_whole_images_alone(images, augment):
    assert_close(augment.evaluate(images), images, rtol=0, atol=0)


@pytest.mark.parametrize("contrast", [1.0, 1e-2, 1e-3, 0.0])
def test_standardize_equals_the_rule_of_tensorflow(images, contrast):
    images = 0.5 + contrast * (images - 0.5)
    expected = []
    for image in 255 * images.double().numpy():
        deviation = max(image.std(), 1 / np.sqrt(image.size))
        expected.append((image - image.mean()) / deviation)
    # float32 numbers near 0.5 are 6e-8 apart, and are divided by deviations down to 3.5e-4
    assert_close(standardize(images), torch.from_numpy(np.stack(expected)).float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Shift(-1), "pixels=-1"),
        (lambda: PaddedCrop(-1), "padding=-1"),
        (lambda: Affine(degrees=181), "degrees=181: expected a number from 0 to 180"),
        (lambda: Affine(scale=1), "scale=1: expected a number from 0 to 0.999"),
        (lambda: Affine(shear=-1), "shear=-1: expected a number from 0 to 89"),
        (lambda: Affine(pixels=-0.5), "pixels=-0.5: expected a number from 0"),
        (lambda: RandomPatch(0), "size=0"),
        (lambda: RandomPatch(brightness=1.5), "brightness=1.5"),
        (lambda: RandomPatch(contrast=-0.1), "contrast=-0.1"),
        (lambda: Shift(8).out_shape((1, 9, 8)), "pixels=8: moves images of 9x8 out of sight"),
        (lambda: Affine(pixels=8).out_shape((1, 9, 8)), "pixels=8: moves images of 9x8 out of sight"),
        (lambda: PaddedCrop(8).out_shape((1, 9, 8)), "padding=8: moves images of 9x8 out of sight"),
        (lambda: RandomPatch(9).out_shape((1, 9, 8)), "size=9: larger than the images of 9x8; expected at most 8"),
    ],
)
def test_bad_values_are_refused(make, named):
    with pytest.raises(InputError, match=named):
        make()


def resampled(image, angle, scale, shear, right, down):
    """``image (C, H, W)`` sheared, scaled, rotated and moved, one output pixel at a time."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    back = np.linalg.inv(turn * scale @ np.array([[1, -np.tan(shear)], [0, 1]]))
    _, rows, columns = image.shape
    middle = np.array([columns - 1, rows - 1]) / 2
    out = np.zeros_like(image)
    for y, x in product(range(rows), range(columns)):
        u, v = back @ (np.array([x - right, y - down]) - middle) + middle
        left, top = int(np.floor(u)), int(np.floor(v))
        for j, i in product((top, top + 1), (left, left + 1)):
            if 0 <= j < rows and 0 <= i < columns:
                out[:, y, x] += (1 - abs(u - i)) * (1 - abs(v - j)) * image[:, j, i]
    return out


def test_affine_equals_the_loop(images, random):
    images = images[:4].double()
    angle, shear, down, right = 2 * torch.rand(4, 4, generator=random, dtype=torch.float64) - 1
    scale = 0.6 + torch.rand(4, generator=random, dtype=torch.float64)
    changed = affine(images, angle, scale, shear, torch.stack([right, down], dim=1))
    expected = [
        resampled(*sample)
        for sample in zip(*(t.numpy() for t in (images, angle, scale, shear, right, down)), strict=True)
    ]
    assert_close(changed, torch.from_numpy(np.stack(expected)), atol=1e-12, rtol=0)


def test_affine_by_a_quarter_turns_clockwise():
    image = torch.rand(1, 2, 5, 5)
    turned = affine(image, torch.tensor([np.pi / 2]), torch.ones(1), torch.zeros(1), torch.zeros(1, 2))
    assert_close(turned, image.rot90(-1, dims=(2, 3)), atol=1e-5, rtol=0)


def test_affine_by_whole_pixels_is_a_shift(images):
    moved = affine(images[:1], torch.zeros(1), torch.ones(1), torch.zeros(1), torch.tensor([[2.0, -1.0]]))
    assert_close(moved[0], torch.from_numpy(shifted(images[0].numpy(), -1, 2)), atol=1e-5, rtol=0)


def test_affine_reaches_what_its_options_say(images):
    draws = torch.tensor(
        [[1.0, 0.5, 0.5, 0.5, 0.5], [0.5, 0.0, 0.5, 0.5, 0.5], [0.5, 0.5, 1.0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.0, 1.0]]
    )
    changed = Affine(degrees=30, scale=0.2, shear=15, pixels=3).train(images[:4], draws)
    turn, lean = np.radians(30), np.radians(15)
    cases = ((turn, 1, 0, 0, 0), (0, 0.8, 0, 0, 0), (0, 1, lean, 0, 0), (0, 1, 0, 3, -3))
    expected = [resampled(image, *case) for image, case in zip(images.numpy(), cases, strict=False)]
    assert_close(changed, torch.from_numpy(np.stack(expected)), atol=1e-5, rtol=0)
