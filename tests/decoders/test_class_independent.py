"""The class-independent decoder: equal to plain loops, blind to the class, its sizes and its range of brightness."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.decoders.class_independent import ClassIndependentDecoder
from capsule_lightning.errors import InputError

CLASSES, DIM = 4, 3
TINY = (2, 3, 4)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def poses():
    return torch.randn(2, CLASSES, DIM, requires_grad=True)


@pytest.fixture
def labels():
    return torch.tensor([2, 0])


def parameters(decoder):
    """Number of parameters."""
    return sum(parameter.numel() for parameter in decoder.parameters())


def spread(maps, layer):
    """Transposed convolution of ``maps (C, H, W)``: every input adds its kernel to the output.

    With stride 1 it is centered on itself. With stride 2 input n reaches the places 2 n to 2 n + 2, or one less each.
    """
    weight, bias, stride = layer.weight.detach().numpy(), layer.bias.detach().numpy(), layer.stride[0]
    before = 0 if getattr(layer, "surplus", 0) else 1
    rows, columns = (n * stride for n in maps.shape[1:])
    out = np.zeros((weight.shape[1], rows, columns)) + bias[:, None, None]
    for i, y, x in np.ndindex(*maps.shape):
        for down, right in np.ndindex(3, 3):
            row, column = y * stride + down - before, x * stride + right - before
            if 0 <= row < rows and 0 <= column < columns:
                out[:, row, column] += maps[i, y, x] * weight[i, :, down, right]
    return out


@pytest.mark.parametrize("cut", ["last", "first"])
def test_equals_the_loop(poses, labels, cut):
    decoder = ClassIndependentDecoder(CLASSES, DIM, (2, 6, 4), channels=TINY, cut=cut).double()
    linear, _, _, norm = decoder.dense
    torch.nn.init.normal_(norm.weight)
    for buffer in (norm.bias, norm.running_mean, *(layer.bias for layer in decoder.enlarge)):
        torch.nn.init.normal_(buffer)
    norm.running_var.uniform_(0.5, 2)
    poses = poses.detach().double()
    pictures = decoder.eval()(poses, labels)
    for picture, capsules, label in zip(pictures.detach(), poses.numpy(), labels, strict=True):
        hidden = np.maximum(linear.weight.detach().numpy() @ capsules[label] + linear.bias.detach().numpy(), 0)
        maps = hidden.reshape(2, 3, 2)
        mean, variance, scale, offset = (
            t.detach().numpy()[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        maps = (maps - mean) / np.sqrt(variance + 1e-3) * scale + offset
        for layer in decoder.enlarge:
            maps = spread(maps, layer)
        np.testing.assert_allclose(picture, np.clip(maps, 0, 1), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("out_shape", "small", "count"),
    [
        pytest.param((3, 64, 64), 8, 33_792 + 32 + 9_280 + 18_464 + 4_624 + 1_160 + 219, id="64x64"),
        pytest.param((1, 28, 28), 7, 25_872 + 32 + 9_280 + 18_464 + 4_624 + 145, id="28x28"),
        pytest.param((3, 32, 32), 8, 33_792 + 32 + 9_280 + 18_464 + 4_624 + 435, id="32x32"),
        pytest.param((1, 8, 8), 8, 33_792 + 32 + 9_280 + 577, id="8x8"),
    ],
)
def test_sizes_of_the_released_networks(out_shape, small, count):
    with torch.device("meta"):
        decoder = ClassIndependentDecoder(10, 32, out_shape)
        more_classes = ClassIndependentDecoder(100, 32, out_shape)
    assert decoder.dense[0].out_features == small * small * 16
    assert parameters(decoder) == parameters(more_classes) == count


@pytest.mark.parametrize("out_shape", [(3, 24, 24), (1, 28, 28), (3, 37, 29), (2, 1, 1), (1, 70, 90)])
@pytest.mark.parametrize("channels", [None, TINY])
def test_pictures_of_any_size_lie_between_zero_and_one(out_shape, channels, poses, labels):
    decoder = ClassIndependentDecoder(CLASSES, DIM, out_shape, channels=channels).eval()
    pictures = decoder(poses * 100, labels)
    assert pictures.shape == (2, *out_shape)
    assert (pictures >= 0).all()
    assert (pictures <= 1).all()
    torch.nn.init.constant_(decoder.enlarge[-1].bias, 0.5)
    assert decoder(poses / 100, labels).std() > 0


def test_pixels_above_one_keep_their_gradient_in_training(poses, labels):
    decoder = ClassIndependentDecoder(CLASSES, DIM, (1, 8, 8), channels=TINY)
    torch.nn.init.constant_(decoder.enlarge[-1].bias, 5.0)
    pictures = decoder(poses, labels)
    assert (pictures > 1).any()
    assert (pictures >= 0).all()
    gradient = torch.autograd.grad(pictures[pictures > 1].sum(), decoder.enlarge[-1].bias)[0]
    assert_close(gradient.item(), float((pictures > 1).sum()))


def test_sees_the_coordinates_of_the_capsule_and_not_its_class(poses, labels):
    decoder = ClassIndependentDecoder(CLASSES, DIM, (1, 6, 5), channels=TINY).eval()
    order = torch.tensor([3, 0, 1, 2])  # capsule k moves to place k + 1
    assert_close(decoder(poses[:, order], (labels + 1) % CLASSES), decoder(poses, labels))
    assert not torch.allclose(decoder(poses, (labels + 1) % CLASSES), decoder(poses, labels))


def test_only_the_capsule_of_the_label_matters(poses, labels):
    decoder = ClassIndependentDecoder(CLASSES, DIM, (1, 6, 5), channels=TINY).eval()
    others = torch.ones(2, CLASSES, 1).index_put((torch.arange(2), labels), torch.zeros(1))
    assert_close(decoder(poses + others, labels), decoder(poses, labels))
    assert not torch.allclose(decoder(poses + 1 - others, labels), decoder(poses, labels))


def test_gradient_reaches_the_capsule_of_the_label_alone_and_every_parameter(poses, labels):
    decoder = ClassIndependentDecoder(CLASSES, DIM, (3, 6, 5), channels=TINY)
    torch.nn.init.constant_(decoder.enlarge[-1].bias, 1.0)
    decoder(poses, labels).square().sum().backward()
    reached = poses.grad.abs().sum(dim=-1) > 0
    assert torch.equal(reached, labels.unsqueeze(-1) == torch.arange(CLASSES))
    assert all(parameter.grad.any() for parameter in decoder.parameters())


def test_examples_do_not_see_each_other_in_evaluation(poses, labels):
    decoder = ClassIndependentDecoder(CLASSES, DIM, (1, 6, 5), channels=TINY).eval()
    assert_close(decoder(poses, labels)[:1], decoder(poses[:1], labels[:1]))


@pytest.mark.parametrize("training", [False, True])
def test_pictures_are_float32_under_autocast(training, poses, labels):
    decoder = ClassIndependentDecoder(CLASSES, DIM, (3, 6, 5), channels=TINY).train(training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pictures = decoder(poses, labels)
    assert pictures.dtype == torch.float32
    assert_close(pictures, decoder(poses, labels), rtol=0, atol=0.03)  # the layers have the eight bits of bfloat16


def test_shows_the_center_of_the_larger_picture(poses, labels):
    small, large = (
        ClassIndependentDecoder(CLASSES, DIM, (3, *size), channels=(4, 4, 4, 4)) for size in ((37, 30), (40, 32))
    )
    large.load_state_dict(small.state_dict())
    pictures = large.eval()(poses * 10, labels)
    assert not torch.allclose(pictures[..., 1:38, 1:31], pictures[..., :37, :30])
    assert_close(small.eval()(poses * 10, labels), pictures[..., 1:38, 1:31])


def test_begins_with_pictures_that_show_the_pose():
    decoder = ClassIndependentDecoder(10, 32, (3, 64, 64))
    poses = torch.nn.functional.normalize(torch.randn(16, 10, 32), dim=-1)
    assert decoder(poses, torch.zeros(16, dtype=torch.int64)).std(dim=0).mean() > 0.02


@pytest.mark.parametrize("channels", [(), (16,), (16, 0)])
def test_too_few_channels_are_refused(channels):
    with pytest.raises(InputError, match=r"channels=.*: expected at least two numbers"):
        ClassIndependentDecoder(CLASSES, DIM, (1, 8, 8), channels=channels)
