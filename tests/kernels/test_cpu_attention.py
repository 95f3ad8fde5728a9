"""Attention in blocks: the routings that use it are equal to the plain functions, without the votes in memory."""

from functools import partial

import pytest
import torch
from autograd_graph import operations
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.kernels.cpu_attention import blocked_attention
from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.votes import vote
from capsule_lightning.routing.inverted_dot_product import InvertedDotProductRouting
from capsule_lightning.routing.self_attention import SelfAttentionRouting

BATCH, CHILDREN, DIM, PARENTS, PARENT_DIM = 5, 6, 4, 3, 7
FUSED = "_BlockedAttentionBackward"
ROUTINGS = [
    pytest.param(partial(SelfAttentionRouting, prior=True), id="self-attention"),
    pytest.param(partial(SelfAttentionRouting, prior=False), id="self-attention without prior"),
    pytest.param(partial(InvertedDotProductRouting, pose="vector", iterations=2), id="inverted"),
    pytest.param(partial(InvertedDotProductRouting, pose="vector", iterations=3, scaled=False), id="inverted, 3"),
]
each_routing = pytest.mark.parametrize("make", ROUTINGS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def layer(make, dtype=torch.float64, **options):
    """The routing, no parameter where it starts."""
    routing = make(CHILDREN, DIM, PARENTS, PARENT_DIM, **options)
    for parameter in routing.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return routing.to(dtype)


def children(*leading, dtype=torch.float64, count=CHILDREN, dim=DIM):
    poses = torch.randn(*leading, count, dim, dtype=dtype, requires_grad=True)
    return Capsules(poses, poses.new_ones(poses.shape[:-1]))


def with_gradients(routing, capsules, backend):
    """Parents, and gradients of the poses and of each parameter for the same random gradient of the parents."""
    routing.backend = backend
    parents = routing(capsules).poses
    upstream = torch.randn(parents.shape, generator=torch.Generator().manual_seed(1), dtype=parents.dtype)
    wanted = [capsules.poses, *routing.parameters()]
    return parents, *torch.autograd.grad(parents, wanted, upstream, allow_unused=True)  # a readout is not asked here


@each_routing
@pytest.mark.parametrize("vote_weights", [None, 2, 1])
@pytest.mark.parametrize("leading", [(), (BATCH,), (2, 3)])
def test_equals_the_plain_functions(make, vote_weights, leading):
    routing, capsules = layer(make, vote_weights=vote_weights), children(*leading)
    blocked, plain = (with_gradients(routing, capsules, backend) for backend in ("blocked", "torch"))
    assert_close(blocked, plain, atol=1e-12, rtol=1e-10)


@each_routing
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((1, 1, 1, 1, 1), id="one of each"),
        pytest.param((2, 5, 19, 1, 6), id="one parent, long poses"),
        pytest.param((20, 2, 8, 10, 16), id="more examples than a block has"),
    ],
)
def test_equals_the_plain_functions_at_any_size(make, sizes):
    batch, *sizes = sizes
    num_in, dim_in, num_out, dim_out = sizes
    routing, capsules = make(num_in, dim_in, num_out, dim_out).double(), children(batch, count=num_in, dim=dim_in)
    blocked, plain = (with_gradients(routing, capsules, backend) for backend in ("blocked", "torch"))
    assert_close(blocked, plain, atol=1e-12, rtol=1e-10)


@each_routing
def test_any_layout_in_memory(make):
    routing, capsules = layer(make), children(BATCH)
    for tensor in (capsules.poses, routing.weight):
        tensor.data = tensor.data.mT.contiguous().mT
    blocked, plain = (with_gradients(routing, capsules, backend) for backend in ("blocked", "torch"))
    assert_close(blocked, plain, atol=1e-12, rtol=1e-10)


@each_routing
def test_only_what_is_asked_for_gets_a_gradient(make):
    routing, capsules = layer(make).requires_grad_(False), children(BATCH)
    gradients = []
    for routing.backend in ("blocked", "torch"):
        gradients.append(torch.autograd.grad(routing(capsules).poses.sum(), capsules.poses))
    assert_close(*gradients)


@each_routing
def test_equals_the_plain_functions_in_float32_at_the_size_of_a_papers_layer(make):
    routing, capsules = make(1152, 8, 10, 16), children(20, dtype=torch.float32, count=1152, dim=8)
    pairs = zip(*(with_gradients(routing, capsules, backend) for backend in ("blocked", "torch")), strict=True)
    for blocked, plain in pairs:
        assert (blocked is None) == (plain is None)
        if plain is not None:
            assert torch.linalg.vector_norm(blocked - plain) <= 1e-5 * torch.linalg.vector_norm(plain)


@pytest.mark.parametrize("block", [1, 2, BATCH, 9])
def test_blocks_of_any_size_are_the_formula(block):
    shapes = (BATCH, CHILDREN, DIM), (CHILDREN, PARENTS, PARENT_DIM, DIM), (BATCH, PARENTS, PARENT_DIM)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in (*shapes, (CHILDREN, PARENTS))]
    poses, weight, queries, prior = inputs
    votes = vote(poses, weight)
    couplings = coupling_coefficients(0.7 * torch.einsum("bije,bje->bij", votes, queries)) + prior
    expected = torch.einsum("bij,bije->bje", couplings, votes)
    found = blocked_attention(*inputs, scale=0.7, block=block)
    assert_close(found, expected)
    upstream = torch.randn_like(expected)
    assert_close(*(torch.autograd.grad(sums, inputs, upstream) for sums in (found, expected)))
    assert torch.autograd.gradcheck(partial(blocked_attention, block=block), inputs, fast_mode=True)


@each_routing
@pytest.mark.parametrize("vote_weights", [None, 1])
def test_nothing_of_the_size_of_the_votes_is_kept(make, vote_weights):
    routing, capsules, kept = layer(make, backend="blocked", vote_weights=vote_weights), children(4 * BATCH), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        routing(capsules)
    assert kept
    of_each_pair = CHILDREN * PARENTS * PARENT_DIM * DIM
    assert max(kept) <= max(capsules.poses.numel(), of_each_pair, 4 * BATCH * PARENTS * PARENT_DIM)


@each_routing
def test_half_precision_is_widened(make):
    routing, capsules = layer(make, torch.float32), children(BATCH, dtype=torch.float32)
    expected = with_gradients(routing, capsules, "torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_gradients(routing, capsules, "blocked")
    # what of inverted attention stays in bfloat16 is the sum of the votes of the first round
    tolerance = 1e-5 if isinstance(routing, SelfAttentionRouting) else 0.02
    for value, wanted in zip(found, expected, strict=True):
        if wanted is not None:
            assert value.dtype == torch.float32
            assert_close(value, wanted, rtol=tolerance, atol=tolerance * wanted.abs().max().item())


@each_routing
def test_an_empty_batch_gives_an_empty_answer(make):
    routing, capsules = layer(make, backend="blocked"), children(0)
    parents = routing(capsules).poses
    assert parents.shape == (0, PARENTS, PARENT_DIM)
    assert not torch.autograd.grad(parents.sum(), routing.weight)[0].any()


@each_routing
@pytest.mark.parametrize(
    ("backend", "dtype", "fused"),
    [
        ("auto", torch.float32, True),
        ("auto", torch.float64, False),
        ("torch", torch.float32, False),
        ("blocked", torch.float64, True),
    ],
)
def test_the_module_chooses_by_precision_and_can_be_told(make, backend, dtype, fused):
    parents = layer(make, dtype, backend=backend)(children(2, BATCH, dtype=dtype)).poses
    assert (FUSED in operations(parents.grad_fn)) == fused


def test_queries_of_other_examples_are_refused():
    poses, weight = torch.randn(2, 3, CHILDREN, DIM), torch.randn(CHILDREN, PARENTS, PARENT_DIM, DIM)
    with pytest.raises(RuntimeError, match="expanded size"):
        blocked_attention(poses, weight, torch.randn(3, 2, PARENTS, PARENT_DIM))


def test_an_unknown_backend_is_refused():
    with pytest.raises(InputError, match="SelfAttentionRouting: backend='cuda': expected one of auto, torch, blocked"):
        SelfAttentionRouting(CHILDREN, DIM, PARENTS, PARENT_DIM, backend="cuda")
