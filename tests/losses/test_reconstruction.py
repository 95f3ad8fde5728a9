"""Reconstruction loss: the sum over the pixels of each picture, its gradient and its precision."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.losses.reconstruction import reconstruction_error


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_is_the_sum_over_pixels_for_each_picture():
    pictures = torch.stack([torch.zeros(3, 4, 5), torch.full((3, 4, 5), 0.5)])
    assert_close(reconstruction_error(pictures, torch.ones(2, 3, 4, 5)), torch.tensor([60.0, 15.0]))


def test_equals_plain_loops():
    pictures, targets = torch.rand(2, 2, 2, 3, 4, dtype=torch.float64).unbind()
    for n, error in enumerate(reconstruction_error(pictures, targets)):
        pairs = zip(pictures[n].flatten().tolist(), targets[n].flatten().tolist(), strict=True)
        assert_close(error.item(), sum((p - t) ** 2 for p, t in pairs), rtol=1e-12, atol=0)


def test_weighs_pixels_of_an_mnist_picture_as_the_mean_times_0_392():
    pictures, targets = torch.rand(2, 3, 1, 28, 28).unbind()
    paper = 0.0005 * reconstruction_error(pictures, targets).mean()
    assert_close(paper, 0.392 * torch.nn.functional.mse_loss(pictures, targets))


def test_gradient_is_the_numerical_one():
    pictures, targets = torch.rand(2, 2, 1, 2, 3, dtype=torch.float64).unbind()
    torch.autograd.gradcheck(lambda p: reconstruction_error(p, targets), pictures.clone().requires_grad_())


def test_is_float32_under_autocast():
    pictures, targets = torch.rand(2, 2, 1, 28, 28).bfloat16().unbind()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        error = reconstruction_error(pictures, targets)
    assert_close(error, reconstruction_error(pictures.float(), targets.float()), rtol=0, atol=0)
