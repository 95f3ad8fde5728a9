"""Convolution by columns: equal to the library's in value and gradient, no less precise in bfloat16."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.kernels.cpu_convolution import columns_conv2d, columns_pay, conv2d


def random_inputs(kernel=(3, 2), dtype=torch.float64):
    """Five images of 3 channels, weight and bias of 4."""
    shapes = (5, 3, 9, 8), (4, 3, *kernel), (4,)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def with_gradients(convolution, inputs, *options):
    """What it returns, and the gradients of all its inputs."""
    out = convolution(*inputs, *options)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return out, *torch.autograd.grad(out, [x for x in inputs if x is not None], upstream)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("block", [None, 1, 2, 7])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("kernel", [(3, 2), (9, 8), (1, 1)])
def test_equals_the_library(kernel, stride, block):
    inputs = random_inputs(kernel)
    for found, wanted in zip(
        with_gradients(columns_conv2d, inputs, stride, block), with_gradients(F.conv2d, inputs, stride), strict=True
    ):
        assert_close(found, wanted, atol=1e-12, rtol=1e-12)


def test_without_a_bias_and_with_channels_innermost():
    images, weight, _ = random_inputs()
    images = images.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    found, wanted = (with_gradients(f, [images, weight, None], (2, 2)) for f in (columns_conv2d, F.conv2d))
    assert_close(found, wanted, atol=1e-12, rtol=1e-12)


def test_gradient():
    assert torch.autograd.gradcheck(lambda *inputs: columns_conv2d(*inputs, (2, 1), 2), random_inputs())


def test_only_what_is_asked_for_gets_a_gradient():
    images, weight, bias = random_inputs()
    found, wanted = (
        torch.autograd.grad(f(images.detach(), weight, bias, (2, 2)).sum(), weight) for f in (columns_conv2d, F.conv2d)
    )
    assert_close(found, wanted)


def test_in_bfloat16_no_further_from_the_truth_than_the_library():
    inputs = [torch.randn(shape) for shape in ((4, 32, 14, 14), (32, 32, 9, 9), (32,))]
    inputs = [x.bfloat16().float().requires_grad_() for x in inputs]
    truth = with_gradients(F.conv2d, [x.detach().double().requires_grad_() for x in inputs], (2, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert columns_pay(*inputs[:2])
        ours, library = with_gradients(conv2d, inputs, (2, 2)), with_gradients(F.conv2d, inputs, (2, 2))
    for found, other, true in zip(ours, library, truth, strict=True):
        error, usual = (torch.linalg.vector_norm(x.double() - true) for x in (found, other))
        # one pixel's gradient is added up in bfloat16 from the up to 5 x 5 places that a kernel of 9 with stride 2 has
        assert error <= 2 * usual + 1e-3 * torch.linalg.vector_norm(true)
    assert ours[0].dtype == torch.bfloat16
    assert [x.dtype for x in ours[1:]] == [torch.float32] * 3


@pytest.mark.parametrize(
    ("kernel", "channels", "autocast", "pays"),
    [(9, 8, True, True), (9, 8, False, False), (9, 1, True, False), (3, 8, True, False)],
)
def test_pays_for_large_kernels_in_bfloat16(kernel, channels, autocast, pays):
    maps, weight = torch.zeros(1, channels, 12, 12), torch.zeros(4, channels, kernel, kernel)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert columns_pay(maps, weight) == pays
        out = conv2d(maps.requires_grad_(), weight, None, (2, 2))
    assert ("Columns" in out.grad_fn.name()) == pays


def test_the_encoder_gives_the_same_capsules_either_way(monkeypatch):
    encoder, images = SabourEncoder((1, 20, 20), channels=16, num_types=4), torch.rand(3, 1, 20, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = encoder(images).poses
        monkeypatch.setattr("capsule_lightning.kernels.cpu_convolution.columns_pay", lambda maps, weight: False)
        plain = encoder(images).poses
    # bfloat16 has eight bits
    assert_close(fast, plain, atol=2**-7, rtol=0)


def test_an_empty_batch_gives_an_empty_answer():
    images, weight, bias = random_inputs()
    assert columns_conv2d(images[:0], weight, bias, (2, 2)).shape == (0, 4, 4, 4)
