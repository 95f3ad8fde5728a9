"""Dynamic routing in C: chosen if it pays and can be compiled, right at the edges of its arithmetic, else refused."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest
import torch
from autograd_graph import operations
from torch import Tensor
from torch.testing import assert_close

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.kernels import native, native_dynamic
from capsule_lightning.kernels.native import compile_c
from capsule_lightning.kernels.native_dynamic import native_dynamic_routing
from capsule_lightning.layers.votes import vote
from capsule_lightning.routing.dynamic import DynamicRouting, dynamic_routing

needs_compiler = pytest.mark.skipif(not which("cc"), reason="there is no C compiler")

SIZES = BATCH, CHILDREN, DIM, PARENTS, PARENT_DIM = 19, 130, 3, 4, 5  # two blocks and three parts, none of them full


@pytest.fixture
def anew() -> Iterator[None]:
    """Compile again, under another environment, and forget what was found there."""
    compile_c.cache_clear()
    yield
    compile_c.cache_clear()


def inputs(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    poses = scale * torch.randn(BATCH, CHILDREN, DIM, dtype=dtype)
    weight = torch.randn(CHILDREN, PARENTS, PARENT_DIM, DIM, dtype=dtype)
    return poses.requires_grad_(), weight.requires_grad_()


def with_gradients(parents: Tensor, of: tuple[Tensor, Tensor]) -> list[Tensor]:
    upstream = torch.randn(parents.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [parents.detach(), *torch.autograd.grad(parents, of, upstream.to(parents.dtype))]


@needs_compiler
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize(("scale", "times"), [(0.01, 2), (0.1, 2), (1.0, 5), (30.0, 20)])
def test_is_as_near_to_float64_as_the_plain_functions(scale: float, times: float, leaky: bool) -> None:
    # the sharper the couplings, the more does routing enlarge rounding, and that depends on the order of the sums
    of = inputs(scale=scale)
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in of)
    expected = with_gradients(dynamic_routing(vote(*exact), leaky=leaky)[0], exact)
    plain = with_gradients(dynamic_routing(vote(*of), leaky=leaky)[0], of)
    in_c = with_gradients(native_dynamic_routing(*of, leaky=leaky), of)
    for found, usual, right in zip(in_c, plain, expected, strict=True):
        error, usual_error = (torch.linalg.vector_norm(value.double() - right) for value in (found, usual))
        assert error <= times * usual_error + 1e-7 * torch.linalg.vector_norm(right)


@needs_compiler
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(value: float) -> None:
    poses, weight = inputs()
    poses.data[2, 100, 1] = value
    parents = native_dynamic_routing(poses, weight)
    finite = parents.isfinite().flatten(1).all(dim=1)
    assert not finite[2]
    assert finite.sum() == BATCH - 1  # examples do not meet


@needs_compiler
def test_the_number_of_threads_changes_nothing() -> None:
    of = inputs()
    before, found = torch.get_num_threads(), []
    library = native_dynamic._library(of[1], 3, False, False)
    vectors = [torch.randn(BATCH, PARENTS, PARENT_DIM, generator=torch.Generator().manual_seed(n)) for n in range(5)]
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            sums = native_dynamic._Sums(*(tensor.detach() for tensor in of), 3, library)
            grads, agreed, uniform = vectors[:2], vectors[2:4], vectors[4]
            passes = list(zip(grads, agreed, strict=True))
            found.append(
                [
                    sums.plain(),
                    sums.coupled(agreed[0]),
                    sums.back(agreed[0], grads[0]),
                    *sums.gradients(passes, uniform),
                ]
            )
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def large(backend: str = "auto") -> tuple[DynamicRouting, Capsules]:
    """A layer that is worth compiling: 2**13 numbers in the votes of an example."""
    children = native_dynamic._FEW_VOTES // 32
    routing = DynamicRouting(children, 2, 4, 8, backend=backend)
    return routing, Capsules.from_vectors(torch.randn(2, children, 2))


def way(parents: Capsules) -> set[str]:
    return {name for name in operations(parents.poses.grad_fn) if "DynamicRouting" in name}


@needs_compiler
def test_a_large_layer_is_trained_by_it_and_only_trained() -> None:
    routing, capsules = large()
    parents = routing(capsules)
    assert way(parents) == {"_NativeDynamicRoutingBackward"}
    with torch.no_grad():
        assert_close(routing(capsules).poses, parents.poses.detach())
        assert routing._choose_backend(capsules.poses) == "blocked"
    few = DynamicRouting(100, 2, 4, 8)
    assert way(few(Capsules.from_vectors(torch.randn(2, 100, 2)))) == {"_BlockedDynamicRoutingBackward"}


@pytest.mark.parametrize(
    ("compiler", "folder", "why"),
    [
        ("no-such-compiler", "", "no-such-compiler"),
        ("false", "", "false failed: status 1"),
        ("true", "", "compiled.so"),
        (f"{sys.executable} -c 'import time; time.sleep(60)'", "", "took more than 1 s"),
        (
            f"{sys.executable} -c 'import os; os.write(2, bytes([233])); os._exit(1)'",
            "",
            "failed: \N{REPLACEMENT CHARACTER}",
        ),
        ("gcc 'quoted", "", "No closing quotation"),
        ("cc", "not/there", "not/there"),
    ],
)
def test_without_a_compiler_another_way_is_taken(
    compiler: str, folder: str, why: str, anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / folder))
    monkeypatch.setattr(native, "_PATIENCE", 1)
    routing, capsules = large()
    assert way(routing(capsules)) == {"_BlockedDynamicRoutingBackward"}
    routing, capsules = large(backend="native")
    with pytest.raises(InputError, match=rf"backend=native: no C compiler .*{why}.*; set CC, or use backend=auto"):
        routing(capsules)
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_nothing_compiled_is_left(anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    native_dynamic_routing(*inputs())
    assert not list(tmp_path.iterdir())


def test_the_compiler_is_told_sizes_alone(anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def no_compiler(command: list[str], **_: object) -> None:
        told.extend(command)
        raise OSError

    monkeypatch.setattr("subprocess.run", no_compiler)
    routing, capsules = large()
    routing(capsules)
    macros = [word for word in told if word.startswith("-D")]
    assert len(macros) == 9
    assert all(re.fullmatch(r"-D[A-Z_]+=([0-9]+|float|double)", word) for word in macros)
    files = [word for word in told if "/" in word]
    assert files == [str(Path(native_dynamic.__file__).with_name("dynamic_routing.c")), told[-1]]


@pytest.mark.parametrize(("parents", "dim_out", "dim"), [(129, 16, 2), (2, 16, 33), (1, 513, 2)])
def test_what_does_not_fit_is_refused(parents: int, dim_out: int, dim: int) -> None:
    routing = DynamicRouting(3, dim, parents, dim_out, backend="native")
    with pytest.raises(
        InputError,
        match=rf"native: {parents} parents of dimension {dim_out}, children of dimension {dim} and 3 iterations",
    ):
        routing(Capsules.from_vectors(torch.randn(2, 3, dim)))


@needs_compiler
@pytest.mark.parametrize(("shape", "dtype"), [((2, 6, 2), torch.float32), ((2, 4, 3), torch.float64)])
def test_no_other_memory_is_read(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"expected \(B, 4, 3\) of torch.float32 on cpu"):
        native_dynamic_routing(torch.zeros(shape, dtype=dtype), torch.zeros(4, 2, 2, 3))
