"""Heads without capsules on the features of an encoder."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from capsule_lightning.encoders.backbone import BackboneEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.losses.ordinal import OrdinalLoss
from capsule_lightning.models.features import FeatureNet

SMALL = partial(BackboneEncoder, name="test_resnet", frozen=True)


def test_a_linear_head_is_the_probe_of_the_mean_features():
    torch.manual_seed(0)
    net = FeatureNet((3, 64, 48), 5, encoder=SMALL).eval()
    images = torch.rand(2, 3, 64, 48)
    poses, activations = net(images)
    linear = net.head[-1]
    logits = F.linear(net.encoder.compute_features(images).mean(dim=(2, 3)), linear.weight, linear.bias)
    assert_close(poses[:, :, 0], logits)
    assert_close(activations, logits.softmax(dim=1))
    trained = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert trained == ["head.1.weight", "head.1.bias"]  # nothing of the capsules is left


def test_hidden_layers_and_thresholds():
    net = FeatureNet((6, 1, 1), 4, hidden=[5], ordinal=True)
    poses, activations = net(torch.randn(3, 6, 1, 1))
    assert poses.shape == (3, 4, 1)
    assert_close(activations.sum(dim=1), torch.ones(3))
    assert_close(poses[:, :, 0].exp(), activations)
    assert sum(p.numel() for p in net.parameters()) == 6 * 5 + 5 + 5 + 3


def test_an_ordinal_head_learns_grades_of_one_score():
    torch.manual_seed(0)
    net, loss = FeatureNet((2, 1, 1), 4, ordinal=True), OrdinalLoss()
    vectors = torch.randn(200, 2, 1, 1)
    grades = torch.bucketize(vectors[:, 0, 0, 0].contiguous(), torch.tensor([-0.8, 0.0, 0.8]))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss(net(vectors), grades).backward()
        optimizer.step()
    assert (net(vectors).activations.argmax(1) == grades).float().mean() > 0.9


@pytest.mark.parametrize("options", [{"hidden": [0]}, {"dropout": 1.5}])
def test_what_cannot_be_is_refused(options):
    with pytest.raises(InputError, match="expected"):
        FeatureNet((6, 1, 1), 4, **options)
