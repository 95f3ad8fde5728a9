"""Blocked dynamic routing: equal to the plain functions in value and gradient, and without the votes in memory."""

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.kernels.dynamic_blocked import block_size, blocked_dynamic_routing
from capsule_lightning.layers.votes import vote
from capsule_lightning.routing.dynamic import DynamicRouting, dynamic_routing

BATCH, CHILDREN, DIM, PARENTS, PARENT_DIM = 5, 7, 4, 3, 6


def random_inputs(dtype=torch.float64):
    """Poses, weight and bias that want gradients."""
    shapes = (BATCH, CHILDREN, DIM), (CHILDREN, PARENTS, PARENT_DIM, DIM), (PARENTS, PARENT_DIM)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def plain(poses, weight, bias, **options):
    """The functions that say what dynamic routing is."""
    return dynamic_routing(vote(poses, weight), bias=bias, **options)[0]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("block", [1, 2, BATCH, 9])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("iterations", [1, 2, 3, 4])
def test_equals_the_plain_functions(iterations, biased, leaky, detach, block):
    poses, weight, bias = random_inputs()
    options = {"iterations": iterations, "bias": bias if biased else None, "leaky": leaky, "detach": detach}
    inputs = [poses, weight, bias][: 2 + biased]
    expected, parents = plain(poses, weight, **options), blocked_dynamic_routing(poses, weight, block=block, **options)
    assert_close(parents, expected, atol=1e-12, rtol=0)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(parents, inputs, upstream)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, inputs, upstream), strict=True):
        assert_close(gradient, wanted, atol=1e-12, rtol=1e-10)


def test_equals_the_plain_functions_in_float32_at_the_size_of_the_paper():
    poses = (0.3 * torch.randn(6, 1152, 8)).requires_grad_()
    weight = (0.1 * torch.randn(1152, 10, 16, 8)).requires_grad_()
    expected, parents = plain(poses, weight, None), blocked_dynamic_routing(poses, weight, block=4)
    upstream = torch.randn_like(expected)
    pairs = zip(
        (parents, *torch.autograd.grad(parents, (poses, weight), upstream)),
        (expected, *torch.autograd.grad(expected, (poses, weight), upstream)),
        strict=True,
    )
    for found, wanted in pairs:
        assert torch.linalg.vector_norm(found - wanted) <= 1e-5 * torch.linalg.vector_norm(wanted)


@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("iterations", [1, 3])
def test_gradient(iterations, leaky):
    def route(poses, weight, bias):
        return blocked_dynamic_routing(poses, weight, iterations, bias, leaky, block=2)

    assert torch.autograd.gradcheck(route, random_inputs())


def test_dead_capsules_have_finite_gradients():
    poses, weight, _ = random_inputs()
    poses.data.zero_()
    parents = blocked_dynamic_routing(poses, weight)
    assert not parents.any()
    for gradient in torch.autograd.grad(parents.sum(), (poses, weight)):
        assert gradient.isfinite().all()


def test_only_what_is_asked_for_gets_a_gradient():
    poses, weight, _ = random_inputs()
    (expected,) = torch.autograd.grad(plain(poses, weight, None).sum(), poses)
    (gradient,) = torch.autograd.grad(blocked_dynamic_routing(poses, weight.detach()).sum(), poses)
    assert_close(gradient, expected)


def test_nothing_of_the_size_of_the_votes_is_kept():
    poses, weight, bias = random_inputs()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        blocked_dynamic_routing(poses, weight, bias=bias)
    assert kept
    assert max(kept) <= max(poses.numel(), weight.numel(), 3 * BATCH * PARENTS * PARENT_DIM)


def test_an_empty_batch_gives_an_empty_answer():
    _, weight, _ = random_inputs()
    assert blocked_dynamic_routing(weight.new_zeros(0, CHILDREN, DIM), weight).shape == (0, PARENTS, PARENT_DIM)


def test_half_precision_is_widened():
    poses, weight, _ = random_inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parents = blocked_dynamic_routing(poses.bfloat16(), weight)
    assert_close(parents, plain(poses.bfloat16().float(), weight, None))


@pytest.mark.parametrize("batch", [1, 5, 128, 1000])
@pytest.mark.parametrize("votes_of_one", [1, 184_320, 10**9])
def test_blocks_are_few_and_equal(batch, votes_of_one):
    block = block_size(batch, votes_of_one)
    blocks = -(-batch // block)
    assert 1 <= block <= batch
    assert block == 1 or block * votes_of_one <= 3 * 2**20
    assert blocks * block - batch < blocks


def operations(node):
    """Names of the operations that a gradient flows through."""
    return {node.name()}.union(*(operations(parent) for parent, _ in node.next_functions if parent))


@pytest.mark.parametrize(
    ("backend", "dtype", "fused"),
    [
        ("auto", torch.float32, True),
        ("auto", torch.float64, False),
        ("torch", torch.float32, False),
        ("blocked", torch.float64, True),
    ],
)
def test_the_module_chooses_by_precision_and_can_be_told(backend, dtype, fused):
    routing = DynamicRouting(CHILDREN, DIM, PARENTS, PARENT_DIM, backend=backend).to(dtype)
    parents = routing(Capsules.from_vectors(torch.randn(BATCH, CHILDREN, DIM, dtype=dtype)))
    assert any("Blocked" in name for name in operations(parents.poses.grad_fn)) == fused


def test_an_unknown_backend_is_refused():
    with pytest.raises(InputError, match="backend='cuda': expected one of auto, torch, blocked"):
        DynamicRouting(CHILDREN, DIM, PARENTS, PARENT_DIM, backend="cuda")
