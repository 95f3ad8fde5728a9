"""Vectors as primary capsules."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.encoders.vector import VectorEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet


def squashed(vectors):
    squared = vectors.square().sum(-1, keepdim=True)
    return squared / (1 + squared) * vectors / squared.sqrt()


def test_capsules_are_a_squashed_linear_map_of_the_vector():
    encoder = VectorEncoder((5, 1, 1), num_types=3, dim=4).double()
    vectors = torch.randn(2, 5, 1, 1, dtype=torch.float64)
    poses, activations = encoder(vectors)
    linear = F.linear(vectors[:, :, 0, 0], encoder.primary.weight, encoder.primary.bias)
    assert_close(poses, squashed(linear.view(2, 3, 4)), rtol=1e-9, atol=1e-9)
    assert_close(activations, poses.norm(dim=-1))
    assert (encoder.num_capsules, encoder.dim, encoder.channels) == (3, 4, 5)


def test_hidden_layers_make_an_mlp_and_pixels_one_vector():
    encoder = VectorEncoder((2, 3, 3), hidden=[7, 6])
    images = torch.rand(4, 2, 3, 3)
    one, _, two, _ = encoder.layers[1:]
    expected = F.linear(F.linear(images.flatten(1), one.weight, one.bias).relu(), two.weight, two.bias).relu()
    assert_close(encoder.features(images)[:, :, 0, 0], expected)


def test_a_network_learns_from_vectors():
    torch.manual_seed(0)
    net = CapsNet((6, 1, 1), 3, encoder=VectorEncoder, decoder=None)
    vectors, labels = torch.randn(60, 6, 1, 1), torch.arange(60) % 3
    vectors[:, :3, 0, 0] += 3 * F.one_hot(labels, 3)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(30):
        loss = F.cross_entropy(8 * net(vectors).activations, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (net(vectors).activations.argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("options", [{"num_types": 0}, {"dim": 0}, {"hidden": [4, 0]}])
def test_sizes_below_one_are_refused(options):
    with pytest.raises(InputError, match="expected at least 1"):
        VectorEncoder((5, 1, 1), **options)
