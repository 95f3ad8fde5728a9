"""Decoders: what the mask lets through, pictures of any size, and precision."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.decoders.base import mask
from capsule_lightning.decoders.conv import ConvDecoder
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.errors import InputError

CLASSES, DIM = 4, 3
DECODERS = [
    pytest.param(partial(DenseDecoder, hidden=(8, 16)), id="dense"),
    pytest.param(partial(DenseDecoder, hidden=()), id="linear"),
    pytest.param(partial(ConvDecoder, channels=(8, 4)), id="conv"),
    pytest.param(partial(ConvDecoder, channels=(8,)), id="conv-one-layer"),
]
every_decoder = pytest.mark.parametrize("decoder", DECODERS)


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


def test_mask_keeps_the_capsule_of_the_label():
    poses = torch.arange(1.0, 13.0).reshape(2, 3, 2)
    expected = torch.tensor([[[0, 0], [0, 0], [5, 6]], [[7, 8], [0, 0], [0, 0]]]).float()
    assert_close(mask(poses, torch.tensor([2, 0])), expected)


@every_decoder
@pytest.mark.parametrize("out_shape", [(3, 24, 24), (1, 28, 28), (3, 37, 29), (2, 1, 1)])
def test_pictures_of_any_size_lie_between_zero_and_one(decoder, out_shape, poses, labels):
    pictures = decoder(CLASSES, DIM, out_shape)(poses * 100, labels)
    assert pictures.shape == (2, *out_shape)
    assert (pictures >= 0).all()
    assert (pictures <= 1).all()
    assert pictures.std() > 0


@every_decoder
def test_only_the_capsule_of_the_label_matters(decoder, poses, labels):
    decode = decoder(CLASSES, DIM, (1, 6, 5))
    picture = decode(poses, labels)
    others = torch.ones(2, CLASSES, 1).index_put((torch.arange(2), labels), torch.zeros(1))
    assert_close(decode(poses + others, labels), picture)
    assert not torch.allclose(decode(poses + 1 - others, labels), picture)


@every_decoder
def test_gradient_reaches_the_capsule_of_the_label_alone_and_every_parameter(decoder, poses, labels):
    decode = decoder(CLASSES, DIM, (3, 6, 5))
    decode(poses, labels).square().sum().backward()
    reached = poses.grad.abs().sum(dim=-1) > 0
    assert torch.equal(reached, labels.unsqueeze(-1) == torch.arange(CLASSES))
    assert all(parameter.grad.any() for parameter in decode.parameters())


@every_decoder
def test_examples_do_not_see_each_other(decoder, poses, labels):
    decode = decoder(CLASSES, DIM, (1, 6, 5))
    assert_close(decode(poses, labels)[:1], decode(poses[:1], labels[:1]))


@every_decoder
def test_pictures_are_float32_under_autocast(decoder, poses, labels):
    decode = decoder(CLASSES, DIM, (3, 6, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pictures = decode(poses, labels)
    assert pictures.dtype == torch.float32
    assert_close(pictures, decode(poses, labels), rtol=0, atol=0.01)  # the layers have the eight bits of bfloat16


def test_dense_decoder_has_the_size_of_the_paper():
    with torch.device("meta"):
        assert parameters(DenseDecoder(10, 16, (1, 28, 28))) == 82_432 + 525_312 + 803_600


def test_dense_decoder_reads_the_masked_capsules_in_order(poses, labels):
    decoder = DenseDecoder(CLASSES, DIM, (1, 1, 2), hidden=())
    weight, bias = decoder.layers[0].weight, decoder.layers[0].bias
    first = labels[0] * DIM
    logits = weight[:, first : first + DIM] @ poses[0, labels[0]] + bias
    assert_close(decoder(poses, labels)[0].flatten(), 1 / (1 + torch.exp(-logits)))


def test_conv_decoder_shows_the_center_of_the_larger_picture(poses, labels):
    small, large = (ConvDecoder(CLASSES, DIM, (3, *size), channels=(8, 8, 8)) for size in ((37, 29), (40, 32)))
    large.load_state_dict(small.state_dict())
    pictures = large(poses * 10, labels)
    assert not torch.allclose(pictures[..., 1:38, 1:30], pictures[..., :37, :29])
    assert_close(small(poses * 10, labels), pictures[..., 1:38, 1:30])


def test_conv_decoder_without_channels_is_refused():
    with pytest.raises(InputError, match=r"channels=.*: expected at least one"):
        ConvDecoder(CLASSES, DIM, (1, 8, 8), channels=())
