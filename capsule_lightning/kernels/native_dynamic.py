"""Dynamic routing on the CPU by a function in C, in which votes never leave the registers; see `dynamic_routing.c`."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from capsule_lightning.errors import InputError
from capsule_lightning.kernels.cpu_products import multiply
from capsule_lightning.kernels.native import compile_c
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash, squash_gradient

_REALS = {torch.float32: "float", torch.float64: "double"}
_MOST_OF_PARENTS = 2048  # numbers in the votes of a child: several vectors of so many lie on the stack
_MOST_OF_A_CHILD = 32
_FEW_VOTES = 2**14  # numbers in the votes of an example: with fewer a run is long before the compiler has paid off
_PART = 2**16  # numbers in the gradient of the weight of the children that one thread takes at a time: 256 KiB


def suits(poses: Tensor, weight: Tensor, iterations: int, leaky: bool, detach: bool) -> bool:
    """Return whether this function trains a layer faster than others, so that it is worth compiling, and can be.

    Args:
        poses, weight, iterations, leaky, detach: see `native_dynamic_routing`.
    """
    trains = torch.is_grad_enabled() and (poses.requires_grad or weight.requires_grad)
    if not trains or weight[..., 0].numel() < _FEW_VOTES or not _fits(weight):
        return False
    return isinstance(_library(weight, iterations, leaky, detach), ctypes.CDLL)


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

    The result can be differentiated once.

    Args:
        poses: ``(B, I, D)``, poses of the children, on the CPU, in float32 or float64.
        weight: ``(I, J, E, D)``, in the dtype of ``poses``; J times E at most 2048, D at most 32.
        iterations, bias, leaky, detach: see `capsule_lightning.routing.dynamic.dynamic_routing`.

    Returns:
        Poses of the parents ``(B, J, E)``.

    Raises:
        InputError: the poses are not on the CPU or the sizes are larger, or there is no C compiler.

    Source: Sabour et al. 2017 (arXiv 1710.09829), Procedure 1. Since ``b_t = sum_{s<t} u_hat . v_s``, the logits of
    pass t are the votes times ``V_t = sum_{s<t} v_s``, and no logits are carried from pass to pass.
    """
    if not _fits(weight):
        raise InputError(
            f"backend=native: votes of {weight.shape[1]} x {weight.shape[2]} numbers from poses of {weight.shape[3]} "
            f"on {weight.device.type}: expected at most {_MOST_OF_PARENTS} numbers from at most {_MOST_OF_A_CHILD}, on "
            "a CPU; use backend=auto"
        )
    library = _library(weight, iterations, leaky, detach)
    if isinstance(library, str):
        raise InputError(f"backend=native: no C compiler to be used ({library}); set CC, or use backend=auto")
    parents: Tensor = _NativeDynamicRouting.apply(poses, weight, bias, iterations, leaky, detach, library)
    return parents


def _fits(weight: Tensor) -> bool:
    numbers, dim_in = weight.shape[1] * weight.shape[2], weight.shape[3]
    return weight.device.type == "cpu" and numbers <= _MOST_OF_PARENTS and dim_in <= _MOST_OF_A_CHILD


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
            ("TERMS", _terms(iterations, detach)),
        ),
    )


def _lanes(dtype: torch.dtype) -> int:
    """Return how many numbers a vector register holds; twice as many would do, but with half of the registers."""
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return (64 if wide else 32) // dtype.itemsize


def _row(dim_out: int) -> int:
    return 1 << (dim_out - 1).bit_length()


def _terms(iterations: int, detach: bool) -> int:
    """Return how many terms with coefficients the gradient of a vote has: two of each pass whose couplings matter."""
    return min(1, iterations - 1) if detach else 2 * (iterations - 1)


class _Sums:
    """The sums over the children of a batch, computed in C.

    Tensors of the parents are ``(B, J, E)`` outside, and blocks of examples ``(blocks, ..., lanes)`` inside.

    Args:
        poses: ``(B, I, D)``.
        weight: ``(I, J, E, D)``.
        library: made for these sizes.
    """

    def __init__(self, poses: Tensor, weight: Tensor, library: ctypes.CDLL) -> None:
        self.poses, self.weight, self.library = poses.contiguous(), weight.contiguous(), library
        self.lanes = _lanes(poses.dtype)
        (self.batch, self.num_in, dim_in), (_, self.num_out, self.dim_out, _) = poses.shape, weight.shape
        self.blocks = -(-self.batch // self.lanes)
        self.of_part = min(64, max(1, _PART // (self.num_out * dim_in * _row(self.dim_out))))

    def uniform(self, share: float) -> Tensor:
        """Return the sum ``(B, J, E)`` of the votes, each times the same share."""
        maps = self.weight.permute(0, 3, 1, 2).flatten(0, 1).flatten(1)  # (I * D, J * E)
        return multiply(self.poses.flatten(1), maps).view(self.batch, self.num_out, self.dim_out).mul_(share)

    def coefficients(self, terms: int) -> Tensor:
        """Return memory for coefficients of children and parents, ``(terms, blocks, I, J, lanes)``."""
        return self.poses.new_empty(terms, self.blocks, self.num_in, self.num_out, self.lanes)

    def coupled(self, agreed: Tensor) -> Tensor:
        """Return the sum of the votes, each times the coupling that its agreement with ``(B, J, E)`` gives."""
        return self._pass(agreed)

    def back(self, agreed: Tensor, grad: Tensor, couplings: Tensor, grad_logits: Tensor) -> Tensor:
        """Go back through a pass, and fill ``couplings`` and ``grad_logits``, both ``(blocks, I, J, lanes)``.

        Args:
            agreed: as in `coupled`.
            grad: gradient of what `coupled` returned.
            couplings: gets the couplings of the pass.
            grad_logits: gets the gradients of its logits.

        Returns:
            The gradient of ``agreed``, ``(B, J, E)``.
        """
        return self._pass(agreed, grad, couplings, grad_logits)

    def gradients(self, coefficients: Tensor, vectors: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the gradients of poses and weight from those of the votes, which are sums of terms.

        Args:
            coefficients: one for each child and parent in each term.
            vectors: of each term, ``(B, J, E)``, and one more, whose coefficients are 1.
        """
        of_terms = self._padded(torch.stack(vectors, dim=1))  # (blocks * lanes, terms + 1, J, E)
        rows = F.pad(of_terms, (0, _row(self.dim_out) - self.dim_out)).contiguous()
        blocks = self._blocks(of_terms)
        grad_poses, grad_weight = torch.empty_like(self.poses), torch.empty_like(self.weight)
        self._call(self.library.route_gradients, coefficients, blocks, rows, grad_poses, grad_weight)
        return grad_poses, grad_weight

    def _pass(self, agreed: Tensor, grad: Tensor | None = None, *kept: Tensor) -> Tensor:
        parts = -(-self.num_in // self.of_part)
        totals = self.poses.new_empty(parts, self.blocks, self.num_out * self.dim_out, self.lanes)
        given = [None if tensor is None else self._blocks(self._padded(tensor)) for tensor in (agreed, grad)]
        self._call(self.library.route_pass, *given, totals, *(kept or (None, None)))
        return totals.sum(dim=0).transpose(1, 2).reshape(-1, self.num_out, self.dim_out)[: self.batch]

    def _padded(self, tensor: Tensor) -> Tensor:
        """Return ``(B, ...)`` with zeros for examples that are missing in the last block."""
        missing = self.blocks * self.lanes - self.batch
        return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor

    def _blocks(self, padded: Tensor) -> Tensor:
        return padded.reshape(self.blocks, self.lanes, padded[0].numel() if len(padded) else 0).mT.contiguous()

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
        sums, share = _Sums(poses, weight, library), 1 / (weight.shape[1] + leaky)
        inputs = [sums.uniform(share)]  # s of each pass
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
        sums, iterations = _Sums(poses, weight, ctx.library), len(inputs)
        agreed = list(torch.stack([squash(s) for s in inputs]).cumsum(dim=0))  # agreed[t - 1] is V of pass t
        grad_parents = [*(torch.zeros_like(grad) for _ in inputs[1:]), grad]
        grad_inputs = [torch.zeros_like(grad) for _ in inputs]
        coefficients = sums.coefficients(2 * (iterations - 1))
        vectors: list[Tensor] = []
        for t in range(iterations - 1, 0, -1):
            grad_inputs[t] = squash_gradient(inputs[t], grad_parents[t])
            couplings, grad_logits = coefficients[len(vectors) : len(vectors) + 2]
            grad_agreed = sums.back(agreed[t - 1], grad_inputs[t], couplings, grad_logits)
            if ctx.detach:
                vectors.append(grad_inputs[t])
                break
            for s in range(t):
                grad_parents[s] = grad_parents[s] + grad_agreed
            vectors += [grad_inputs[t], agreed[t - 1]]
        if iterations == 1 or not ctx.detach:
            grad_inputs[0] = squash_gradient(inputs[0], grad_parents[0])
        found = sums.gradients(coefficients, [*vectors, ctx.share * grad_inputs[0]])
        grad_bias = torch.stack(grad_inputs).sum(dim=(0, 1)) if ctx.biased else None
        return *found, grad_bias, None, None, None, None
