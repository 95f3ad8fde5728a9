"""Two convolutions a block of the batch at a time: equal to the library's in value and gradient, with less memory."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.kernels import cpu_conv_relu_conv
from capsule_lightning.kernels.cpu_conv_relu_conv import Convolution, blocks_pay, conv_relu_conv, images_per_block

STRIDES = ((1, 1), (2, 1)), ((2, 1), (1, 2))


def random_inputs(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Five images of 2 channels, weights and biases of 3 and 4."""
    torch.manual_seed(0)
    shapes = (5, 2, 9, 8), (3, 2, 3, 2), (3,), (4, 3, 2, 3), (4,)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def in_one(images, weight, bias, next_weight, next_bias, strides):
    first, second = Convolution(weight, bias, strides[0]), Convolution(next_weight, next_bias, strides[1])
    return second(first(images).relu())


def in_blocks(images, weight, bias, next_weight, next_bias, strides, block):
    first, second = Convolution(weight, bias, strides[0]), Convolution(next_weight, next_bias, strides[1])
    return conv_relu_conv(images, first, second, block)


@pytest.mark.parametrize("block", [1, 2, 5, 8])
@pytest.mark.parametrize("strides", STRIDES)
def test_equals_the_library(strides, block):
    inputs = random_inputs()
    wanted, found = in_one(*inputs, strides), in_blocks(*inputs, strides, block)
    assert_close(found, wanted, atol=1e-12, rtol=1e-12)
    upstream = torch.randn_like(wanted)
    for mine, its in zip(*(torch.autograd.grad(out, inputs, upstream) for out in (found, wanted)), strict=True):
        assert_close(mine, its, atol=1e-12, rtol=1e-12)


def test_gradient():
    assert torch.autograd.gradcheck(lambda *inputs: in_blocks(*inputs, STRIDES[0], 2), random_inputs())


def test_images_get_a_gradient_only_if_asked():
    images, *parameters = random_inputs()
    with FlopCounterMode(display=False) as with_images:
        torch.autograd.grad(in_blocks(images, *parameters, STRIDES[0], 2).sum(), [images, *parameters])
    with FlopCounterMode(display=False) as without:
        torch.autograd.grad(in_blocks(images.detach(), *parameters, STRIDES[0], 2).sum(), parameters)
    assert without.get_total_flops() < with_images.get_total_flops()


@pytest.mark.parametrize(("batch", "blocks"), [(1, 1), (40, 1), (41, 2), (128, 4), (512, 13)])
def test_blocks_of_the_papers_encoder_are_about_equally_large(batch, blocks):
    first = Convolution(torch.zeros(256, 1, 9, 9), torch.zeros(256), (1, 1))
    images = torch.zeros(batch, 1, 28, 28)
    sizes = [len(part) for part in images.split(images_per_block(images, first))]
    assert len(sizes) == blocks
    assert max(sizes) * 256 * 20 * 20 <= 2**22
    assert blocks_pay(images, first) == (blocks > 1)
    with torch.no_grad():
        assert not blocks_pay(images, first)
    with torch.autocast("cpu", torch.bfloat16):
        assert not blocks_pay(images, first)


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_the_encoder_in_blocks_is_the_encoder(mode, monkeypatch):
    torch.manual_seed(0)
    encoder = SabourEncoder(
        (2, 11, 10), channels=5, kernel_size=3, num_types=2, dim=4, primary_kernel_size=3, primary_stride=2, mode=mode
    ).double()
    images = torch.rand(7, 2, 11, 10, dtype=torch.float64)
    results = []
    for numbers in (2**22, 1000):
        monkeypatch.setattr(cpu_conv_relu_conv, "_BLOCK_OF_MAPS", numbers)
        assert blocks_pay(images, Convolution(encoder.conv.weight, encoder.conv.bias, (1, 1))) == (numbers == 1000)
        poses = encoder(images).poses
        results.append([poses, *torch.autograd.grad(poses.square().sum(), list(encoder.parameters()))])
    for one, blocks in zip(*results, strict=True):
        assert_close(blocks, one, atol=1e-12, rtol=1e-12)
