"""Pose networks: the published number of parameters, and each joint read from its own capsule."""

from functools import partial

import pytest
import torch

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.deca import DECAEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.deca import DECANet
from capsule_lightning.models.pose_capsnet import PoseCapsNet
from capsule_lightning.models.pose_cnn import PoseCNN
from capsule_lightning.routing.em import EMRouting
from capsule_lightning.routing.uniform import UniformRouting

SMALL = partial(DECAEncoder, channels=(4, 8), kernel_size=3, strides=(2, 2), paddings=None, num_types=2, dim=4)
SHAPE = (1, 16, 16)


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_deca_has_the_parameters_of_its_code() -> None:
    with torch.device("meta"):
        net = DECANet((3, 256, 256), 19)
    encoder, layers = net.body.encoder, net.body.layers
    assert count(encoder.features) == 4_660_416
    betas = 2 * (16 + 16 + 19)
    assert count(encoder, layers) - count(encoder.features) - betas == 96_064
    assert count(net.pixels) == 2_489_382
    assert count(net.positions) == 2_528_313
    assert count(net.depth, net.enlarge) == 27_589_779
    assert count(net) + 4 == 37_364_060  # the loss learns four numbers
    assert encoder.size == (13, 13)
    assert layers[-1].windows.size == (4, 4)


def test_decas_heads_say_pixels_meters_and_depth() -> None:
    make = partial(DECANet, SHAPE, 5, encoder=partial(SMALL, dim=16), types=(3,), strides=(1,), hidden=(8, 8))
    net = make().eval()
    pixels, positions, depth = net.read(net(torch.rand(2, *SHAPE)))
    assert pixels.shape == (2, 5, 2)
    assert positions.shape == (2, 5, 3)
    assert depth.shape == (2, *SHAPE)
    assert 0 <= depth.min() <= depth.max() <= 1
    assert net.orthogonality() > 0
    solid = make(dims=3).eval()
    joints, positions, _ = solid.read(solid(torch.rand(2, *SHAPE)))
    assert joints.shape == (2, 5, 3)
    assert positions is None
    with torch.no_grad():
        solid.body.layers[-1].routing.weight.copy_(torch.eye(4))
    assert solid.orthogonality() == 0


@pytest.mark.parametrize("dims", [2, 3])
def test_each_joint_is_read_from_its_own_capsule_by_one_map(dims) -> None:
    net = PoseCapsNet(SHAPE, 5, encoder=SMALL, dim=6, dims=dims)
    poses = torch.randn(2, 5, 6)
    joints = net.read(Capsules.from_vectors(poses)).joints
    assert joints.shape == (2, 5, dims)
    changed = poses.clone()
    changed[:, 3] += 1
    moved = (net.read(Capsules.from_vectors(changed)).joints - joints).abs().sum(dim=(0, 2)) > 0
    assert moved.tolist() == [False, False, False, True, False]
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.allclose(net.read(Capsules.from_vectors(poses[:, order])).joints, joints[:, order])


def test_coordinates_are_pixels_of_the_image() -> None:
    net = PoseCapsNet((1, 16, 32), 3, encoder=SMALL, dim=4)
    with torch.no_grad():
        net.reading.weight.zero_()
        net.reading.bias.copy_(torch.tensor([0.5, -0.25]))
    assert net.read(Capsules.from_vectors(torch.ones(1, 3, 4))).joints[0].tolist() == [[32.0, 0.0]] * 3


@pytest.mark.parametrize(("routing", "dim"), [(UniformRouting, 8), (EMRouting, 4)], ids=["vector", "matrix"])
def test_any_routing_says_joints_and_depth(routing, dim) -> None:
    net = PoseCapsNet(SHAPE, 5, encoder=SMALL, routing=routing, dim=dim, depth_hidden=(8,))
    places = net.read(net(torch.rand(2, *SHAPE)))
    assert places.joints.shape == (2, 5, 2)
    assert places.depth.shape == (2, *SHAPE)
    places.joints.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in net.routing.parameters())


def test_the_control_has_the_same_interface_and_reads_every_feature() -> None:
    net = PoseCNN(SHAPE, 5, encoder=SMALL, hidden=(7,), dims=3, depth_hidden=())
    capsules = net(torch.rand(2, *SHAPE))
    assert capsules.poses.shape == (2, 5, 3)
    assert capsules.activations.shape == (2, 5)
    assert net.read(capsules).depth.shape == (2, *SHAPE)
    with pytest.raises(InputError, match="PoseCNN: says nothing of the orthogonality"):
        net.orthogonality()


def test_padding_the_batch_changes_no_image() -> None:
    net = PoseCapsNet(SHAPE, 5, encoder=SMALL).eval()
    images = torch.rand(3, *SHAPE)
    assert torch.allclose(net.read(net(images)).joints[:1], net.read(net(images[:1])).joints, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: PoseCapsNet(SHAPE, 5, encoder=SMALL, dims=4), "dims=4: expected 2"),
        (lambda: PoseCapsNet(SHAPE, 5, encoder=SMALL, depth_hidden=(0,)), r"depth_hidden=\[0\]"),
        (lambda: PoseCNN(SHAPE, 5, encoder=SMALL, hidden=(0,)), r"hidden=\[0\]"),
        (lambda: DECANet((1, 18, 18), 5), "18x18: expected multiples of 4"),
        (lambda: DECAEncoder(SHAPE, channels=(4,), strides=(2, 2), paddings=(1,)), "one of each"),
        (lambda: DECAEncoder((1, 4, 4), channels=(2, 2), kernel_size=3, strides=(2, 2), paddings=None), "too small"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, told) -> None:
    with pytest.raises(InputError, match=told):
        make()
