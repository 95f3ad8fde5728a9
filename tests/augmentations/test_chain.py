"""Chains of augmentations: each step gets its own draws, sizes add up; scaling as PIL does it."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from capsule_lightning.augmentations.chain import Chain, Mirror, Resize
from capsule_lightning.augmentations.geometry import Affine, Shift, mirror
from capsule_lightning.augmentations.identity import NoAugmentation
from capsule_lightning.augmentations.patch import RandomPatch
from capsule_lightning.errors import InputError


@pytest.fixture
def images():
    return torch.rand(8, 3, 7, 6, generator=torch.Generator().manual_seed(0))


def test_steps_follow_each_other_each_with_its_own_draws(images):
    draws = torch.rand(8, 8, generator=torch.Generator().manual_seed(1))
    chain = Chain([NoAugmentation, partial(Shift, 1), Affine, Mirror])
    assert chain.num_draws == 2 + 5 + 1
    expected = Affine().train(Shift(1).train(images, draws[:, :2]), draws[:, 2:7])
    assert_close(chain.train(images, draws), mirror(expected, draws[:, 7]), rtol=0, atol=0)


def test_evaluation_and_shapes_follow_the_steps(images):
    chain = Chain([partial(Resize, 12), partial(RandomPatch, 5), Mirror])
    assert chain.out_shape((3, 7, 6)) == (3, 5, 5)
    assert_close(chain.evaluate(images), Resize(12).evaluate(images)[..., 3:8, 3:8], rtol=0, atol=0)
    assert chain.train(images, torch.rand(8, chain.num_draws)).shape == (8, 3, 5, 5)


def test_a_chain_of_nothing_changes_nothing(images):
    chain = Chain([])
    assert chain.num_draws == 0
    assert_close(chain.train(images, torch.empty(8, 0)), images, rtol=0, atol=0)


def test_a_step_refuses_what_the_steps_before_leave_it():
    with pytest.raises(InputError, match="pixels=8: moves images of 8x8 out of sight"):
        Chain([partial(Resize, 8), partial(Shift, 8)]).out_shape((3, 32, 32))


@pytest.mark.parametrize("size", [3, 6, 14, 20])
def test_resize_is_that_of_pil(images, size):
    scaled = Resize(size).evaluate(images)
    for image, expected in zip(scaled.flatten(0, 1), images.flatten(0, 1), strict=True):
        pil = Image.fromarray(expected.numpy()).resize((size, size), Image.Resampling.BILINEAR)
        assert_close(image, torch.from_numpy(np.array(pil)), rtol=0, atol=1e-5)
    assert_close(Resize(size).train(images, torch.empty(8, 0)), scaled, rtol=0, atol=0)


def test_mirror_turns_round_where_the_draw_is_below_one_half(images):
    draws = torch.tensor([[0.0], [0.49], [0.5], [0.99]])
    mirrored = Mirror().train(images[:4], draws)
    assert_close(mirrored[:2], images[:2].flip(-1), rtol=0, atol=0)
    assert_close(mirrored[2:], images[2:4], rtol=0, atol=0)
    assert_close(Mirror().evaluate(images), images, rtol=0, atol=0)


def test_size_below_one_is_refused():
    with pytest.raises(InputError, match="size=0: expected at least 1"):
        Resize(0)
