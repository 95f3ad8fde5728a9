"""Dynamic routing on the CPU by functions in C that keep votes in the cache of a core; see `dynamic_routing.c`."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from capsule_lightning.errors import InputError, require
from capsule_lightning.kernels.native import compile_c
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash, squash_gradient

_REALS = {torch.float32: "float", torch.float64: "double"}
_MOST_OF_PARENTS = 2048  # numbers in the votes of a child, and passes of a parent: vectors of so many lie on the stack
_MOST_OF_A_PARENT = 512
_MOST_OF_A_CHILD = 32
_FEW_VOTES = 2**13  # numbers in the votes of an example: with fewer a run is long before the compiler has paid off
_PART = 2**16  # numbers that one thread keeps at a time of each kind: 256 KiB in float32


def suits(poses: Tensor, weight: Tensor, iterations: int, leaky: bool, detach: bool) -> bool:
    """Return whether this function trains a layer faster than others, so that it is worth compiling, and can be.

    Args:
        poses, weight, iterations, leaky, detach: see `native_dynamic_routing`.
    """
    num_in, num_out, dim_out, dim_in = weight.shape
    trains = torch.is_grad_enabled() and (poses.requires_grad or weight.requires_grad)
    if not trains or weight.device.type != "cpu" or not pays(num_in, num_out, dim_out, dim_in, iterations):
        return False
    return isinstance(_library(weight, iterations, leaky, detach), ctypes.CDLL)


def pays(num_in: int, num_out: int, dim_out: int, dim_in: int, iterations: int) -> bool:
    """Return whether a layer of these sizes is worth compiling, and fits."""
    return num_in * num_out * dim_out >= _FEW_VOTES and _fits(num_out, dim_out, dim_in, iterations)


def children_of_part(num_out: int, dim_out: int, dim_in: int, iterations: int, lanes: int) -> int:
    """Return how many children a thread takes at a time, so that what it keeps of them stays in its cache.

    Args:
        num_out, dim_out, dim_in, iterations: of the layer.
        lanes: numbers in a vector register.
    """
    of_child = num_out * max(dim_in * _row(dim_out), 2 * iterations * lanes)
    return min(64, max(1, _PART // of_child))


@full_precision
def native_dynamic_routing(
    poses: Tensor,
    weight: Tensor,
    iterations: int = 3,
    bias: Tensor | None = None,
    leaky: bool = False,
    detach: bool = False,
) -> Tensor:
    """Compute `dynamic_routing` of `vote` without forming votes in memory, on as many threads as torch has.

    The result can be differentiated once, and is the same for any number of threads.

    Args:
        poses: ``(B, I, D)``, poses of the children, on the CPU, in float32 or float64.
        weight: ``(I, J, E, D)``, in the dtype of ``poses``; D at most 32, E at most 512, and J times E, or
            times iterations, at most 2048.
        iterations, bias, leaky, detach: see `capsule_lightning.routing.dynamic.dynamic_routing`.

    Returns:
        Poses of the parents ``(B, J, E)``.

    Raises:
        InputError: the poses are not on the CPU, the sizes are larger or do not fit together, or there is no C
            compiler.

    Source: Sabour et al. 2017 (arXiv 1710.09829), Procedure 1. Since ``b_t = sum_{s<t} u_hat . v_s``, the logits of
    pass t are the votes times ``V_t = sum_{s<t} v_s``, and no logits are carried from pass to pass.
    """
    num_in, num_out, dim_out, dim_in = weight.shape
    require(  # what C would read is not checked by anybody else
        poses.shape[1:] == (num_in, dim_in) and (poses.dtype, poses.device) == (weight.dtype, weight.device),
        f"poses {tuple(poses.shape)} of {poses.dtype} on {poses.device}: expected (B, {num_in}, {dim_in}) of "
        f"{weight.dtype} on {weight.device}, as the weight has them",
    )
    if weight.device.type != "cpu" or not _fits(num_out, dim_out, dim_in, iterations):
        raise InputError(
            f"backend=native: {num_out} parents of dimension {dim_out}, children of dimension {dim_in} and "
            f"{iterations} iterations on {weight.device.type}: expected a CPU, children of at most "
            f"{_MOST_OF_A_CHILD} dimensions, parents of at most {_MOST_OF_A_PARENT}, and at most {_MOST_OF_PARENTS} "
            "for the number of parents times their dimension or times iterations; use backend=auto"
        )
    library = _library(weight, iterations, leaky, detach)
    if isinstance(library, str):
        raise InputError(f"backend=native: no C compiler to be used ({library}); set CC, or use backend=auto")
    parents: Tensor = _NativeDynamicRouting.apply(poses, weight, bias, iterations, leaky, detach, library)
    return parents


def _fits(num_out: int, dim_out: int, dim_in: int, iterations: int) -> bool:
    few = num_out * max(dim_out, iterations) <= _MOST_OF_PARENTS
    return few and dim_out <= _MOST_OF_A_PARENT and dim_in <= _MOST_OF_A_CHILD


def _library(weight: Tensor, iterations: int, leaky: bool, detach: bool) -> ctypes.CDLL | str:
    """Return the functions of `dynamic_routing.c` for a layer, or why there are none."""
    _, num_out, dim_out, dim_in = weight.shape
    return compile_c(
        "dynamic_routing.c",
        (
            ("REAL", _REALS[weight.dtype]),
            ("LANES", _lanes(weight.dtype)),
            ("PARENTS", num_out),
            ("DIM_OUT", dim_out),
            ("DIM_IN", dim_in),
            ("ROW", _row(dim_out)),
            ("LEAKY", int(leaky)),
            ("DETACH", int(detach)),
            ("PASSES", min(1, iterations - 1) if detach else iterations - 1),
        ),
    )


def _lanes(dtype: torch.dtype) -> int:
    """Return how many numbers a vector register holds; twice as many would do, but with half of the registers."""
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return (64 if wide else 32) // dtype.itemsize


def _row(dim_out: int) -> int:
    return 1 << (dim_out - 1).bit_length()


class _Sums:
    """The sums over the children of a batch, computed in C.

    Tensors of the parents are ``(B, J, E)`` outside, and blocks of examples ``(blocks, ..., lanes)`` inside.

    Args:
        poses: ``(B, I, D)``.
        weight: ``(I, J, E, D)``.
        iterations: passes of routing.
        library: made for these sizes.
    """

    def __init__(self, poses: Tensor, weight: Tensor, iterations: int, library: ctypes.CDLL) -> None:
        self.poses, self.weight, self.library = poses.contiguous(), weight.contiguous(), library
        self.lanes = _lanes(poses.dtype)
        (self.batch, self.num_in, dim_in), (_, self.num_out, self.dim_out, _) = poses.shape, weight.shape
        self.blocks = -(-self.batch // self.lanes)
        self.of_part = children_of_part(self.num_out, self.dim_out, dim_in, iterations, self.lanes)

    def plain(self) -> Tensor:
        """Return the sum of the votes, ``(B, J, E)``."""
        return self._pass()

    def coupled(self, agreed: Tensor) -> Tensor:
        """Return the sum of the votes, each times the coupling that its agreement with ``(B, J, E)`` gives."""
        return self._pass(agreed)

    def back(self, agreed: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient of ``agreed (B, J, E)`` from that of what `coupled` returned."""
        return self._pass(agreed, grad)

    def gradients(self, passes: list[tuple[Tensor, Tensor]], of_uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of poses and weight.

        Args:
            passes: for each pass the gradient of what `coupled` returned, and what it was given, ``(B, J, E)``.
            of_uniform: ``(B, J, E)``, the gradient of the plain sum of the votes.
        """
        of_passes = [tensor for pair in passes for tensor in pair]
        vectors = self._padded(torch.stack([*of_passes, of_uniform], dim=1))  # (blocks * lanes, 2 passes + 1, J, E)
        rows = F.pad(vectors, (0, _row(self.dim_out) - self.dim_out)).contiguous()
        blocks = self._blocks(vectors)
        grad_poses, grad_weight = torch.empty_like(self.poses), torch.empty_like(self.weight)
        self._call(self.library.route_gradients, blocks, rows, grad_poses, grad_weight)
        return grad_poses, grad_weight

    def _pass(self, agreed: Tensor | None = None, grad: Tensor | None = None) -> Tensor:
        parts = -(-self.num_in // self.of_part)
        totals = self.poses.new_empty(parts, self.blocks, self.num_out * self.dim_out, self.lanes)
        given = (None if tensor is None else self._blocks(self._padded(tensor)) for tensor in (agreed, grad))
        self._call(self.library.route_pass, *given, totals)
        return totals.sum(dim=0).transpose(1, 2).reshape(-1, self.num_out, self.dim_out)[: self.batch]

    def _padded(self, tensor: Tensor) -> Tensor:
        """Return ``(B, ...)`` with zeros for examples that are missing in the last block."""
        missing = self.blocks * self.lanes - self.batch
        return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor

    def _blocks(self, padded: Tensor) -> Tensor:
        return padded.reshape(self.blocks, self.lanes, padded.shape[1:].numel()).mT.contiguous()

    def _call(self, function: Any, *tensors: Tensor | None) -> None:
        pointers = (
            ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
            for tensor in (self.poses, self.weight, *tensors)
        )
        sizes = (ctypes.c_long(size) for size in (self.batch, self.num_in, self.of_part))
        function(*pointers, *sizes, ctypes.c_int(torch.get_num_threads()))


class _NativeDynamicRouting(torch.autograd.Function):
    """The autograd function of `native_dynamic_routing`."""

    @staticmethod
    def forward(
        ctx: Any,
        poses: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        iterations: int,
        leaky: bool,
        detach: bool,
        library: ctypes.CDLL,
    ) -> Tensor:
        sums, share = _Sums(poses, weight, iterations, library), 1 / (weight.shape[1] + leaky)
        inputs = [sums.plain().mul_(share)]  # s of each pass
        if bias is not None:
            inputs[0] += bias
        agreed = torch.zeros_like(inputs[0])  # V
        for t in range(1, iterations):
            agreed += squash(inputs[t - 1])
            inputs.append(sums.coupled(agreed))
            if bias is not None:
                inputs[t] += bias
        ctx.save_for_backward(poses, weight, *inputs)
        ctx.share, ctx.detach, ctx.library, ctx.biased = share, detach, library, bias is not None
        return squash(inputs[-1])

    @staticmethod
    @once_differentiable
    @full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        poses, weight, *inputs = ctx.saved_tensors
        iterations = len(inputs)
        sums = _Sums(poses, weight, iterations, ctx.library)
        agreed = list(torch.stack([squash(s) for s in inputs]).cumsum(dim=0))  # agreed[t - 1] is V of pass t
        grad_parents = [*(torch.zeros_like(grad) for _ in inputs[1:]), grad]
        grad_inputs = [torch.zeros_like(grad) for _ in inputs]
        passes: list[tuple[Tensor, Tensor]] = []
        for t in range(iterations - 1, 0, -1):
            grad_inputs[t] = squash_gradient(inputs[t], grad_parents[t])
            passes.append((grad_inputs[t], agreed[t - 1]))
            if ctx.detach:
                break
            grad_agreed = sums.back(agreed[t - 1], grad_inputs[t])
            for s in range(t):
                grad_parents[s] = grad_parents[s] + grad_agreed
        if iterations == 1 or not ctx.detach:
            grad_inputs[0] = squash_gradient(inputs[0], grad_parents[0])
        found = sums.gradients(passes, ctx.share * grad_inputs[0])
        grad_bias = torch.stack(grad_inputs).sum(dim=(0, 1)) if ctx.biased else None
        return *found, grad_bias, None, None, None, None
