"""Fast paths of dynamic routing: equal to the plain functions in value and gradient, without the votes in memory."""

import itertools
from functools import partial
from importlib.util import find_spec
from shutil import which

import pytest
import torch
from autograd_graph import operations
from tiers import nightly_but
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.kernels.cpu_dynamic import blocked_dynamic_routing
from capsule_lightning.kernels.gpu_dynamic import triton_dynamic_routing
from capsule_lightning.kernels.native_dynamic import native_dynamic_routing
from capsule_lightning.layers.votes import vote
from capsule_lightning.routing import dynamic
from capsule_lightning.routing.dynamic import DynamicRouting, dynamic_routing

BATCH, CHILDREN, DIM, PARENTS, PARENT_DIM = 5, 7, 4, 3, 6
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
needs_gpu = pytest.mark.skipif(not GPU, reason="there is no GPU")
needs_compiler = pytest.mark.skipif(not which("cc"), reason="there is no C compiler")
needs_triton = pytest.mark.skipif(not find_spec("triton"), reason="triton is not installed")


def on_device(poses, weight, iterations=3, bias=None, **options):
    """The Triton kernels on the GPU, if there is one, for tensors on the CPU."""
    bias = None if bias is None else bias.to(DEVICE)
    return triton_dynamic_routing(poses.to(DEVICE), weight.to(DEVICE), iterations, bias, **options).cpu()


BLOCKED = [pytest.param(partial(blocked_dynamic_routing, block=n), id=f"blocked-{n}") for n in (1, 2, BATCH, 9)]
TRITON = pytest.param(on_device, id="triton", marks=needs_triton)
NATIVE = pytest.param(native_dynamic_routing, id="native", marks=needs_compiler)
each_path = pytest.mark.parametrize("route", [pytest.param(blocked_dynamic_routing, id="blocked"), NATIVE, TRITON])


def random_inputs(batch=BATCH, children=CHILDREN, dim=DIM, parents=PARENTS, parent_dim=PARENT_DIM, dtype=torch.float64):
    """Poses, weight and bias that want gradients."""
    shapes = (batch, children, dim), (children, parents, parent_dim, dim), (parents, parent_dim)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def plain(poses, weight, iterations=3, bias=None, **options):
    """The functions that say what dynamic routing is."""
    return dynamic_routing(vote(poses, weight), iterations, bias, **options)[0]


def with_gradients(route, inputs, **options):
    """Parents, and gradients of the inputs for the same random gradient of the parents."""
    poses, weight, *bias = inputs
    parents = route(poses, weight, bias=bias[0] if bias else None, **options)
    upstream = torch.randn(parents.shape, generator=torch.Generator().manual_seed(1), dtype=parents.dtype)
    return parents, *torch.autograd.grad(parents, inputs, upstream)


SWITCHES = list(itertools.product([1, 2, 3, 4], *[[False, True]] * 3))
"""Iterations, with a bias, leaky, detached."""
PAIRS = [
    (n, bool(a), bool(b ^ a), bool(c ^ a)) for n, b, c in ((1, 0, 0), (2, 1, 0), (3, 0, 1), (4, 1, 1)) for a in (0, 1)
]
"""Eight of them in which any two values meet: for Triton's slow interpreter, and what has to be compiled, by day."""


@pytest.mark.parametrize(("iterations", "biased", "leaky", "detach"), SWITCHES)
@pytest.mark.parametrize("route", BLOCKED)
def test_equals_the_plain_functions(route, iterations, biased, leaky, detach):
    assert_equals_the_plain_functions(route, iterations, biased, leaky, detach)


@needs_triton
@pytest.mark.parametrize(("iterations", "biased", "leaky", "detach"), nightly_but(PAIRS, SWITCHES))
def test_triton_equals_the_plain_functions(iterations, biased, leaky, detach):
    assert_equals_the_plain_functions(on_device, iterations, biased, leaky, detach)


@needs_compiler
@pytest.mark.parametrize(("iterations", "biased", "leaky", "detach"), nightly_but(PAIRS, SWITCHES))
def test_native_equals_the_plain_functions(iterations, biased, leaky, detach):
    assert_equals_the_plain_functions(native_dynamic_routing, iterations, biased, leaky, detach)


def assert_equals_the_plain_functions(route, iterations, biased, leaky, detach):
    inputs, options = random_inputs()[: 2 + biased], {"iterations": iterations, "leaky": leaky, "detach": detach}
    found, expected = with_gradients(route, inputs, **options), with_gradients(plain, inputs, **options)
    assert_close(found, expected, atol=1e-12, rtol=1e-10)


SIZES = {
    "one of each": (1, 1, 1, 1, 1),
    "one parent, long poses": (2, 5, 19, 1, 6),
    "more examples than a block of the kernels has": (20, 2, 8, 10, 16),
    "as many parents as the kernels take": (3, 3, 3, 33, 40),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_equals_the_plain_functions_at_any_size(sizes):
    assert_equal_at(sizes, blocked_dynamic_routing)


@needs_triton
@pytest.mark.parametrize("sizes", nightly_but(["one of each"], SIZES))
def test_triton_equals_the_plain_functions_at_any_size(sizes):
    assert_equal_at(SIZES[sizes], on_device)


@needs_compiler
@pytest.mark.parametrize("sizes", [*SIZES.values(), (9, 70, 3, 2, 5)], ids=[*SIZES, "more children than a part has"])
def test_native_equals_the_plain_functions_at_any_size(sizes):
    assert_equal_at(sizes, native_dynamic_routing)


def assert_equal_at(sizes, route):
    inputs = random_inputs(*sizes)
    assert_close(with_gradients(route, inputs), with_gradients(plain, inputs), atol=1e-12, rtol=1e-10)


@each_path
def test_equals_the_plain_functions_in_float32(route):
    children = 16 if route is on_device and not GPU else 1152  # as in the paper, but for the interpreter
    poses = (0.3 * torch.randn(6, children, 8)).requires_grad_()
    weight = (0.1 * torch.randn(children, 10, 16, 8)).requires_grad_()
    inputs = poses, weight
    for found, wanted in zip(with_gradients(route, inputs), with_gradients(plain, inputs), strict=True):
        assert torch.linalg.vector_norm(found - wanted) <= 1e-5 * torch.linalg.vector_norm(wanted)


GRADIENTS = list(itertools.product([1, 3], [False, True]))
"""Iterations, leaky."""


@pytest.mark.parametrize(("iterations", "leaky"), GRADIENTS)
def test_gradient(iterations, leaky):
    assert_gradient_is_the_numerical_one(blocked_dynamic_routing, iterations, leaky)


@needs_triton
@pytest.mark.long(6)
@pytest.mark.parametrize(("iterations", "leaky"), nightly_but([(1, True)], GRADIENTS))
def test_triton_gradient(iterations, leaky):
    assert_gradient_is_the_numerical_one(on_device, iterations, leaky)


@needs_compiler
@pytest.mark.parametrize(("iterations", "leaky"), nightly_but([(3, True)], GRADIENTS))
def test_native_gradient(iterations, leaky):
    assert_gradient_is_the_numerical_one(native_dynamic_routing, iterations, leaky)


def assert_gradient_is_the_numerical_one(route, iterations, leaky):
    def of_all(poses, weight, bias):
        return route(poses, weight, iterations, bias, leaky=leaky)

    assert torch.autograd.gradcheck(of_all, random_inputs(), fast_mode=True)


@each_path
def test_dead_capsules_have_finite_gradients(route):
    inputs = random_inputs()[:2]
    inputs[0].data.zero_()
    parents, *gradients = with_gradients(route, inputs)
    assert not parents.any()
    assert all(gradient.isfinite().all() for gradient in gradients)


@each_path
def test_only_what_is_asked_for_gets_a_gradient(route):
    poses, weight, _ = random_inputs()
    (expected,) = torch.autograd.grad(plain(poses, weight).sum(), poses)
    (gradient,) = torch.autograd.grad(route(poses, weight.detach()).sum(), poses)
    assert_close(gradient, expected)


@each_path
def test_without_gradients_the_parents_are_the_same(route):
    inputs = random_inputs()
    with torch.no_grad():
        parents = route(inputs[0], inputs[1], bias=inputs[2])
    assert not parents.requires_grad
    assert_close(parents, with_gradients(plain, inputs)[0].detach())


@each_path
def test_any_layout_in_memory(route):
    inputs = [tensor.detach().mT.contiguous().mT.requires_grad_() for tensor in random_inputs()]
    assert_close(with_gradients(route, inputs), with_gradients(plain, inputs), atol=1e-12, rtol=1e-10)


@each_path
def test_the_same_numbers_each_time(route):
    inputs = random_inputs(batch=4 if route is on_device and not GPU else 40)  # the interpreter has one order anyway
    first, again = with_gradients(route, inputs), with_gradients(route, inputs)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


@each_path
def test_nothing_of_the_size_of_the_votes_is_kept(route):
    poses, weight, bias = random_inputs()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        route(poses, weight, bias=bias)
    assert kept
    assert max(kept) <= max(poses.numel(), weight.numel(), 3 * BATCH * PARENTS * PARENT_DIM)


@each_path
def test_an_empty_batch_gives_an_empty_answer(route):
    poses, weight, bias = random_inputs(batch=0)
    parents = route(poses, weight, bias=bias)
    assert parents.shape == (0, PARENTS, PARENT_DIM)
    assert not any(gradient.any() for gradient in torch.autograd.grad(parents.sum(), (poses, weight, bias)))


@each_path
def test_half_precision_is_widened(route):
    poses, weight, _ = random_inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parents = route(poses.bfloat16(), weight)
    assert_close(parents, plain(poses.bfloat16().float(), weight))


@pytest.mark.parametrize(
    ("backend", "dtype", "device", "fused"),
    [
        ("auto", torch.float32, "cpu", "_BlockedDynamicRoutingBackward"),
        ("auto", torch.float64, "cpu", None),
        ("torch", torch.float32, "cpu", None),
        ("blocked", torch.float64, "cpu", "_BlockedDynamicRoutingBackward"),
        pytest.param("native", torch.float64, "cpu", "_NativeDynamicRoutingBackward", marks=needs_compiler),
        pytest.param("triton", torch.float64, DEVICE, "_TritonDynamicRoutingBackward", marks=needs_triton),
        pytest.param("auto", torch.float32, "cuda", "_TritonDynamicRoutingBackward", marks=needs_gpu),
    ],
)
def test_the_module_chooses_by_precision_and_can_be_told(backend, dtype, device, fused):
    routing = DynamicRouting(CHILDREN, DIM, PARENTS, PARENT_DIM, backend=backend).to(device, dtype)
    parents = routing(Capsules.from_vectors(torch.randn(2, BATCH, CHILDREN, DIM, dtype=dtype, device=device)))
    assert parents.poses.shape == (2, BATCH, PARENTS, PARENT_DIM)
    assert {name for name in operations(parents.poses.grad_fn) if "DynamicRouting" in name} == ({fused} - {None})


def test_the_compiled_backend_equals_the_plain_functions(monkeypatch):
    # traced, but not translated, which takes a quarter of a minute
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(dynamic, "_compiled", dynamic._compiled.__wrapped__)
    routing = DynamicRouting(CHILDREN, DIM, PARENTS, PARENT_DIM, backend="compiled")
    poses = torch.randn(BATCH, CHILDREN, DIM)
    assert_close(routing(Capsules.from_vectors(poses)).poses, plain(poses, routing.weight))


def test_an_unknown_backend_is_refused():
    with pytest.raises(
        InputError, match="backend='cuda': expected one of auto, torch, blocked, native, shared, compiled, triton"
    ):
        DynamicRouting(CHILDREN, DIM, PARENTS, PARENT_DIM, backend="cuda")
