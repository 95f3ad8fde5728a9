"""Deformable capsules: the plain layer at the start, plain loops after it, and the samples that are exported."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.models.deformable_capsules import DeformableCapsules, _deformed_votes, _sampled_votes
from capsule_lightning.models.shared_kernel_capsules import SharedKernelCapsules
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.em import EMRouting
from capsule_lightning.routing.self_routing import SelfRouting

TYPES, DIM, PARENTS, DIM_OUT, KERNEL = 3, 2, 2, 4, 3
BIASED = partial(DynamicRouting, bias=True)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def maps(rows=5, columns=4):
    """Child capsules on a map in float64."""
    poses = torch.randn(2, rows, columns, TYPES, DIM, dtype=torch.float64)
    return Capsules(poses, torch.rand(2, rows, columns, TYPES, dtype=torch.float64))


def layer(cls=DeformableCapsules, routing=BIASED, stride=1):
    return cls(TYPES, DIM, PARENTS, DIM_OUT, routing=routing, kernel_size=KERNEL, stride=stride).double()


def deform(conv):
    """Move the offsets from where they start."""
    with torch.no_grad():
        for parameter in conv.router.offsets.parameters():
            parameter += 0.7 * torch.randn_like(parameter)
    return conv


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("routing", [BIASED, EMRouting])
def test_it_starts_as_the_plain_layer(routing, stride):
    conv, plain, capsules = layer(routing=routing, stride=stride), layer(SharedKernelCapsules, routing, stride), maps()
    plain.routing.load_state_dict(conv.routing.state_dict())
    assert_close(conv(capsules), plain(capsules))
    assert not torch.allclose(deform(conv)(capsules).poses, plain(capsules).poses)


def plain_votes(maps, offsets, weight, stride):
    """Each place of each window by itself, interpolated between its four neighbors."""
    votes = torch.zeros(len(maps), len(weight), *offsets.shape[2:], dtype=maps.dtype)
    rows, columns = maps.shape[2:]
    for y in range(votes.shape[2]):
        for x in range(votes.shape[3]):
            for place in range(KERNEL * KERNEL):
                for n in range(len(maps)):
                    down, right = offsets[n, 2 * place : 2 * place + 2, y, x].tolist()
                    a, b = stride * y + place // KERNEL + down, stride * x + place % KERNEL + right
                    for row in range(rows):
                        for column in range(columns):
                            share = max(0, 1 - abs(a - row)) * max(0, 1 - abs(b - column))
                            w = weight[:, :, place // KERNEL, place % KERNEL]
                            votes[n, :, y, x] += share * (w @ maps[n, :, row, column])
    return votes


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_votes_are_those_of_plain_loops(stride):
    size = [(n - KERNEL) // stride + 1 for n in (5, 4)]
    children, weight = torch.randn(2, DIM, 5, 4).double(), torch.randn(3, DIM, KERNEL, KERNEL).double()
    offsets = 2 * torch.randn(2, 2 * KERNEL**2, *size).double()
    expected = plain_votes(children, offsets, weight, stride)
    assert_close(_deformed_votes(children, offsets, weight, stride), expected)
    assert_close(_sampled_votes(children, offsets, weight, stride), expected)


def test_examples_and_the_order_of_types_do_not_matter():
    conv, capsules, order = deform(layer()), maps(), torch.tensor([2, 0, 1])
    expected = conv(capsules)
    assert_close(conv(Capsules(*(part[1:] for part in capsules))), Capsules(*(part[1:] for part in expected)))
    assert_close(conv(Capsules(*(part[:, :, :, order] for part in capsules))), expected)


def test_gradients_of_blocks_are_those_of_the_whole():
    conv, capsules = deform(layer()), maps()
    capsules.poses.requires_grad_()
    inputs = [capsules.poses, *conv.parameters()]
    padded = Capsules(*(conv.router.plain.kernel.pad(part) for part in capsules))
    of_blocks, whole = (
        torch.autograd.grad(parents.poses.square().sum(), inputs) for parents in (conv(capsules), conv.router(padded))
    )
    assert_close(of_blocks, whole)
    assert all(gradient.any() for gradient in of_blocks)


def test_autocast_runs_and_offsets_learn_from_the_start():
    conv, capsules = layer().float(), maps()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parents = conv(Capsules(capsules.poses.float(), capsules.activations.float()))
    parents.poses.square().sum().backward()
    assert parents.poses.dtype == torch.float32
    assert conv.router.offsets.weight.grad.any()


def test_a_routing_that_does_not_take_votes_is_refused():
    with pytest.raises(InputError, match="SelfRouting does not route"):
        layer(routing=SelfRouting)
