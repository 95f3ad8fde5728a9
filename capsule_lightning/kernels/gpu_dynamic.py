"""Dynamic routing on the GPU: the votes live in registers and never reach the memory of the device.

Tests check their values and gradients, on a GPU if there is one, or else in Triton's interpreter. On an H100 they take
half of the time of the plain functions, and a twentieth of the memory (`benchmarks/README.md`).

Written with plain autograd, routing streams the votes ``(B, I, J, E)`` through memory about twenty times a step. Here
each kernel forms the votes that it needs from poses and weight, uses them and drops them: one kernel for each pass of
routing, one for each pass back through it, and one for the gradients of poses and weight. Sums over the children are
split among programs, which leave partial sums in memory; a small kernel adds these up, always in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsule_lightning.errors import InputError
from capsule_lightning.layers.precision import full_precision

try:
    import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
    import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
except ImportError:  # there is none for macOS, nor with a torch that has no CUDA
    triton = None

_LARGEST = 4096  # numbers in the padded poses (J, E) of one example
_OLDEST = 7, 0  # compute capability that Triton compiles for
_RESIDENT = 2  # programs of four warps whose registers a multiprocessor always has, however many a thread needs
_OPTIONS = {"enable_fp_fusion": True}  # multiply and add in one instruction; since Triton 3.10 only on request


def supports(num_out: int, dim_out: int) -> bool:
    """Return whether Triton is installed and the parents, rounded up to powers of two, fit into registers."""
    return triton is not None and _power_of_two(num_out) * _power_of_two(dim_out) <= _LARGEST


def suits(device: torch.device, num_out: int, dim_out: int) -> bool:
    """Return whether the kernels can route on a GPU: one of NVIDIA that Triton compiles for, and parents that fit."""
    known = torch.version.hip is None and torch.cuda.get_device_capability(device) >= _OLDEST
    return known and supports(num_out, dim_out)


@full_precision
def triton_dynamic_routing(
    poses: Tensor,
    weight: Tensor,
    iterations: int = 3,
    bias: Tensor | None = None,
    leaky: bool = False,
    detach: bool = False,
) -> Tensor:
    """Compute `dynamic_routing` of `vote` without votes, logits or couplings in the memory of the device.

    The result can be differentiated once.

    Args:
        poses: ``(B, I, D)``, poses of the children, on a GPU (on any device with ``TRITON_INTERPRET=1``).
        weight: ``(I, J, E, D)``, in the dtype of ``poses``.
        iterations, bias, leaky, detach: see `capsule_lightning.routing.dynamic.dynamic_routing`.

    Returns:
        Poses of the parents ``(B, J, E)``.

    Raises:
        InputError: there is no Triton or no GPU, or the parents are too large for the registers.

    Source: Sabour et al. 2017 (arXiv 1710.09829), Procedure 1. Since ``b_t = sum_{s<t} u_hat . v_s``, the logits of
    pass t are the votes times ``V_t = sum_{s<t} v_s``, and no logits are carried from pass to pass.
    """
    num_out, dim_out = weight.shape[1:3]
    if triton is None:
        raise InputError(
            "backend=triton: the package triton is not installed; install it (Linux only) or use backend=auto"
        )
    if poses.device.type != "cuda" and isinstance(_sum_children, triton.JITFunction):
        raise InputError(
            f"backend=triton: the poses are on {poses.device}, but the kernels need a GPU; move the model to one or "
            "use backend=auto"
        )
    if not supports(num_out, dim_out):
        raise InputError(
            f"backend=triton: {num_out} parents of dimension {dim_out} do not fit into registers: expected a product "
            f"of at most {_LARGEST} after rounding both up to powers of two; use backend=auto"
        )
    parents: Tensor = _TritonDynamicRouting.apply(poses, weight, bias, iterations, leaky, detach)
    return parents


class _TritonDynamicRouting(torch.autograd.Function):
    """The autograd function of `triton_dynamic_routing`; index letters as in `capsule_lightning.layers`."""

    @staticmethod
    def forward(
        ctx: Any, poses: Tensor, weight: Tensor, bias: Tensor | None, iterations: int, leaky: bool, detach: bool
    ) -> Tensor:
        (batch, num_in, dim_in), (num_out, dim_out) = poses.shape, weight.shape[1:3]
        layer = _Layer(batch, num_in, dim_in, num_out, dim_out, leaky)
        poses, maps = poses.contiguous(), _maps(weight)
        bias = None if bias is None else bias.contiguous()
        inputs = poses.new_empty(iterations, *layer.of_parents)  # s of each pass
        agreed = poses.new_empty(iterations, *layer.of_parents)  # V of each pass
        agreed[0] = 0
        parents = poses.new_empty(layer.of_parents)
        with torch.cuda.device(poses.get_device()):
            for t in range(iterations):
                partials = layer.sum_children(poses, maps, agreed[t])
                before, after = (agreed[t], agreed[t + 1]) if t < iterations - 1 else (None, parents)
                layer.launch_rows(_squash, partials, bias, num_out, inputs[t], before, after)
        ctx.save_for_backward(poses, weight, inputs, agreed)
        ctx.layer, ctx.detach, ctx.biased = layer, detach, bias is not None
        return parents

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        poses, weight, inputs, agreed = ctx.saved_tensors
        layer, last = ctx.layer, len(inputs) - 1
        first = last if ctx.detach else 0  # the earliest pass that has a gradient
        maps = _maps(weight)
        ds = poses.new_empty(last - first + 1, *layer.of_parents)
        dv = poses.new_empty(layer.of_parents)  # of each pass before the last: dV of all passes after it
        grad_poses, grad_weight = torch.empty_like(poses), poses.new_empty(weight.shape)
        with torch.cuda.device(poses.get_device()):
            layer.launch_rows(_squash_gradient, None, grad.contiguous(), inputs[last], None, ds[-1])
            for t in range(last, first, -1):
                partials = layer.sum_children(poses, maps, agreed[t], ds[t - first])
                later = dv if t < last else None
                layer.launch_rows(_squash_gradient, partials, later, inputs[t - 1], dv, ds[t - 1 - first])
            layer.launch_gradients(poses, maps, agreed, ds, grad_poses, grad_weight)
        return grad_poses, grad_weight, ds.sum(dim=(0, 1)) if ctx.biased else None, None, None, None


class _Layer(NamedTuple):
    """The sizes of a layer, which decide how its kernels are launched."""

    batch: int
    num_in: int
    dim_in: int
    num_out: int
    dim_out: int
    leaky: bool

    @property
    def of_parents(self) -> tuple[int, int, int]:
        """The shape of a tensor with one vector for each parent."""
        return self.batch, self.num_out, self.dim_out

    @property
    def tile(self) -> dict[str, Any]:
        """The sizes of the tile of votes that a program holds at once, at most 32 votes for each thread.

        A thread has 255 registers; sums, gradients and weights fill the others.
        """
        j, e = _power_of_two(self.num_out), _power_of_two(self.dim_out)
        warps = 4 if j * e <= 1024 else 8
        b = min(_power_of_two(self.batch), max(1024 * warps // (j * e), 1), 64)
        sizes = {"dim_in": self.dim_in, "num_out": self.num_out, "dim_out": self.dim_out, "leaky": self.leaky}
        return {**sizes, "block_j": j, "block_b": b, "block_e": e, "num_warps": warps, **_OPTIONS}

    def sum_children(self, poses: Tensor, maps: Tensor, agreed: Tensor, ds: Tensor | None = None) -> Tensor:
        """Launch `_sum_children` and return its partial sums ``(chunks, B, J, E)``, which the next kernel adds up."""
        tile = self.tile
        blocks = ceil(self.batch / tile["block_b"])
        chunks = min(_chunks(blocks, poses.device), self.num_in)
        partials = poses.new_empty(chunks, *self.of_parents)
        _sum_children[(chunks * blocks,)](poses, maps, agreed, ds, partials, chunks, self.batch, self.num_in, **tile)
        return partials

    def launch_rows(self, kernel: Any, partials: Tensor | None, *others: Any) -> None:
        """Launch `_squash` or `_squash_gradient`, which first add up ``partials (chunks, B, J, E)``."""
        chunks = 0 if partials is None else len(partials)
        e = _power_of_two(self.dim_out)
        c = min(_power_of_two(chunks), 32, max(4096 // e, 1))
        r = max(2048 // (c * e), 1)
        rows = self.batch * self.num_out
        blocks = {"dim_out": self.dim_out, "block_c": c, "block_r": r, "block_e": e}
        kernel[(ceil(rows / r),)](partials, *others, chunks, rows * self.dim_out, **blocks, **_OPTIONS)

    def launch_gradients(
        self, poses: Tensor, maps: Tensor, agreed: Tensor, ds: Tensor, grad_poses: Tensor, grad_weight: Tensor
    ) -> None:
        """Launch `_gradients` for the passes that ``ds`` holds, which are the last ones."""
        tile, through = self.tile, len(ds) == len(agreed)
        routed = len(agreed) - 1 if through else 1
        d = min(_power_of_two(self.dim_in), max(1024 * tile["num_warps"] // (tile["block_j"] * tile["block_e"]), 1), 16)
        tensors = poses, maps, agreed[len(agreed) - routed :], ds, grad_poses, grad_weight
        sizes = self.batch, self.num_in, ds[0].numel()
        grid = self.num_in, ceil(self.dim_in / d)
        _gradients[grid](*tensors, *sizes, routed=routed, through=through, block_d=d, **tile)


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least ``number``."""
    return 1 << max(number - 1, 0).bit_length()


def _chunks(blocks: int, device: torch.device) -> int:
    """Return into how many parts the children are split for each block of examples, so as to fill the device once.

    Programs are dealt out to the multiprocessors in turn. If there is one part for each of them, or for every second or
    third, all programs of a multiprocessor have the same part, whose weight stays in its cache.
    """
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    if blocks <= _RESIDENT:
        return multiprocessors * (_RESIDENT // max(blocks, 1))
    return max(multiprocessors // ceil(blocks / _RESIDENT), 1)


def _maps(weight: Tensor) -> Tensor:
    """Return the weight as ``(I, D, J, E)``, so that threads read neighboring numbers."""
    return weight.permute(0, 3, 1, 2).contiguous()


def _kernel(function: Callable[..., Any]) -> Any:
    """Apply `triton.jit` if Triton is installed."""
    return triton.jit(function) if triton else function


# In the kernels an index letter is a range, whose size must be a power of two, and `filled_` with the letter is the
# mask of what is not beyond the end. Offsets that may exceed 2^31 are int64. The votes of a block of examples are a
# tile (j, b, e). A thread should hold most parents of a few examples, so that the softmax hardly leaves its registers.
# Triton decides this from what the kernel loads and stores; loading and storing vectors of parents in rows k, the
# pairs of j and b, leaves it no choice.


@_kernel
def _sum_children(
    poses: tl.tensor,
    maps: tl.tensor,
    agreed: tl.tensor,
    ds: tl.tensor,
    partials: tl.tensor,
    chunks: tl.tensor,
    batch: tl.tensor,
    num_in: tl.tensor,
    dim_in: tl.constexpr,
    num_out: tl.constexpr,
    dim_out: tl.constexpr,
    leaky: tl.constexpr,
    block_j: tl.constexpr,
    block_b: tl.constexpr,
    block_e: tl.constexpr,
) -> None:
    """Sum coefficient times vote over a chunk of the children, for a block of examples.

    The coefficients are the couplings by agreement with V, and the sum is a part of s; or, if ``ds`` is given, they are
    the gradients of the logits, and the sum is a part of dV.
    """
    chunk = (tl.program_id(0) % chunks).to(tl.int64)
    first_b = (tl.program_id(0) // chunks).to(tl.int64) * block_b
    first_i, last_i = chunk * num_in // chunks, (chunk + 1) * num_in // chunks
    b, j, e = tl.arange(0, block_b), tl.arange(0, block_j), tl.arange(0, block_e)
    filled_b, filled_j = first_b + b < batch, (j < num_out)[:, None]
    filled_je = filled_j & (e[None, :] < dim_out)
    je = j[:, None] * dim_out + e[None, :]
    k = tl.arange(0, block_j * block_b)
    filled_k = (k // block_b < num_out) & (first_b + k % block_b < batch)
    filled = filled_k[:, None] & (e[None, :] < dim_out)
    ke = (k % block_b * num_out + k // block_b)[:, None] * dim_out + e[None, :]
    first = first_b * (num_out * dim_out)

    agreement = tl.reshape(tl.load(agreed + first + ke, mask=filled, other=0.0), (block_j, block_b, block_e))
    if ds is not None:
        upstream = tl.reshape(tl.load(ds + first + ke, mask=filled, other=0.0), (block_j, block_b, block_e))
    total = tl.zeros((block_j, block_b, block_e), dtype=partials.dtype.element_ty)
    poses += (first_b * num_in + first_i) * dim_in + b * num_in * dim_in
    maps += first_i * (dim_in * num_out * dim_out) + je
    for _ in range(first_i, last_i):
        votes = _votes(poses, maps, filled_b, filled_je, dim_in, num_out * dim_out, block_j, block_b, block_e)
        coefficients = _couplings(votes, agreement, filled_j, leaky)
        if ds is not None:
            coefficients = _grad_logits(votes, upstream, coefficients)
        total += coefficients[:, :, None] * votes
        poses += dim_in
        maps += dim_in * num_out * dim_out
    partials += chunk * batch * (num_out * dim_out) + first
    tl.store(partials + ke, tl.reshape(total, (block_j * block_b, block_e)), mask=filled)


@_kernel
def _squash(
    partials: tl.tensor,
    bias: tl.tensor,
    num_out: tl.tensor,
    inputs: tl.tensor,
    before: tl.tensor,
    after: tl.tensor,
    chunks: tl.tensor,
    size: tl.tensor,
    dim_out: tl.constexpr,
    block_c: tl.constexpr,
    block_r: tl.constexpr,
    block_e: tl.constexpr,
) -> None:
    """Store the inputs s of a pass, from their partial sums, and ``after = before + squash(s)``."""
    r, e = tl.program_id(0).to(tl.int64) * block_r + tl.arange(0, block_r), tl.arange(0, block_e)
    re = r[:, None] * dim_out + e[None, :]
    filled = (re < size) & (e[None, :] < dim_out)
    s = _add_up(partials + re, filled, chunks, size, block_c, block_r, block_e)
    if bias is not None:
        s += tl.load(bias + (r % num_out)[:, None] * dim_out + e[None, :], mask=filled, other=0.0)
    length = tl.sqrt(tl.sum(s * s, axis=1))[:, None]
    v = s * (length / (1 + length * length))
    if before is not None:
        v += tl.load(before + re, mask=filled, other=0.0)
    tl.store(inputs + re, s, mask=filled)
    tl.store(after + re, v, mask=filled)


@_kernel
def _squash_gradient(
    partials: tl.tensor,
    later: tl.tensor,
    inputs: tl.tensor,
    dv: tl.tensor,
    ds: tl.tensor,
    chunks: tl.tensor,
    size: tl.tensor,
    dim_out: tl.constexpr,
    block_c: tl.constexpr,
    block_r: tl.constexpr,
    block_e: tl.constexpr,
) -> None:
    """Store the gradient dv of the parents of a pass, ``later`` plus the partial sums, and ds, by `squash_gradient`."""
    r, e = tl.program_id(0).to(tl.int64) * block_r + tl.arange(0, block_r), tl.arange(0, block_e)
    re = r[:, None] * dim_out + e[None, :]
    filled = (re < size) & (e[None, :] < dim_out)
    s = tl.load(inputs + re, mask=filled, other=0.0)
    grad = tl.zeros((block_r, block_e), dtype=inputs.dtype.element_ty)
    if partials is not None:
        grad += _add_up(partials + re, filled, chunks, size, block_c, block_r, block_e)
    if later is not None:
        grad += tl.load(later + re, mask=filled, other=0.0)
    if dv is not None:
        tl.store(dv + re, grad, mask=filled)
    length = tl.sqrt(tl.sum(s * s, axis=1))[:, None]
    scale = 1 + length * length
    direction = s / tl.where(length > 0, length, 1.0)
    along = tl.sum(direction * grad, axis=1)[:, None] * direction
    tl.store(ds + re, (length * grad + length * (1 - length * length) / scale * along) / scale, mask=filled)


@_kernel
def _gradients(
    poses: tl.tensor,
    maps: tl.tensor,
    agreed: tl.tensor,
    ds: tl.tensor,
    grad_poses: tl.tensor,
    grad_weight: tl.tensor,
    batch: tl.tensor,
    num_in: tl.tensor,
    size: tl.tensor,
    routed: tl.constexpr,
    through: tl.constexpr,
    dim_in: tl.constexpr,
    num_out: tl.constexpr,
    dim_out: tl.constexpr,
    leaky: tl.constexpr,
    block_j: tl.constexpr,
    block_b: tl.constexpr,
    block_e: tl.constexpr,
    block_d: tl.constexpr,
) -> None:
    """Store the gradients of pose and weight of one child, for a block of dimensions of the pose, over the whole batch.

    ``agreed`` and ``ds`` are those of the ``routed`` passes; if gradients flow ``through`` the couplings, ``ds`` begins
    with the first pass, whose couplings are all equal. A program has a child to itself, so nothing is added up in
    memory.
    """
    i, first_d = tl.program_id(0).to(tl.int64), tl.program_id(1) * block_d
    b, j, e, d = tl.arange(0, block_b), tl.arange(0, block_j), tl.arange(0, block_e), tl.arange(0, block_d)
    filled_j, filled_d = (j < num_out)[:, None], first_d + d < dim_in
    filled_je = filled_j & (e[None, :] < dim_out)
    je = j[:, None] * dim_out + e[None, :]
    k = tl.arange(0, block_j * block_b)
    ke = (k % block_b * num_out + k // block_b)[:, None] * dim_out + e[None, :]

    poses += i * dim_in + b * num_in * dim_in
    grad_poses += i * dim_in + b * num_in * dim_in
    maps += i * (dim_in * num_out * dim_out) + je
    total = tl.zeros((block_d, block_j * block_e), dtype=grad_weight.dtype.element_ty)
    for first_b in range(0, batch, block_b):
        filled_b = first_b + b < batch
        filled_k = (k // block_b < num_out) & (first_b + k % block_b < batch)
        filled = filled_k[:, None] & (e[None, :] < dim_out)
        votes = _votes(poses, maps, filled_b, filled_je, dim_in, num_out * dim_out, block_j, block_b, block_e)
        grad_votes = tl.zeros((block_j, block_b, block_e), dtype=grad_weight.dtype.element_ty)
        agreed_t, ds_t = agreed + ke, ds + ke
        if through:
            upstream = tl.reshape(tl.load(ds_t, mask=filled, other=0.0), (block_j, block_b, block_e))
            grad_votes += upstream / (num_out + leaky)
            ds_t += size
        for _ in tl.static_range(routed):
            agreement = tl.reshape(tl.load(agreed_t, mask=filled, other=0.0), (block_j, block_b, block_e))
            upstream = tl.reshape(tl.load(ds_t, mask=filled, other=0.0), (block_j, block_b, block_e))
            couplings = _couplings(votes, agreement, filled_j, leaky)
            grad_votes += couplings[:, :, None] * upstream
            if through:
                grad_votes += _grad_logits(votes, upstream, couplings)[:, :, None] * agreement
            agreed_t += size
            ds_t += size
        for nth in tl.static_range(block_d):
            inside = first_d + nth + tl.arange(0, 1) < dim_in
            column = tl.load(maps + (first_d + nth) * (num_out * dim_out), mask=filled_je & inside[None, :], other=0.0)
            grad_pose = tl.sum(tl.sum(grad_votes * column[:, None, :], axis=2), axis=0)
            tl.store(grad_poses + first_d + nth, grad_pose, mask=filled_b & inside)
        pose = tl.load(poses[:, None] + first_d + d[None, :], mask=filled_b[:, None] & filled_d[None, :], other=0.0)
        flat = tl.reshape(tl.permute(grad_votes, (1, 0, 2)), (block_b, block_j * block_e))
        total += tl.sum(pose[:, :, None] * flat[:, None, :], axis=0)
        poses += block_b * num_in * dim_in
        grad_poses += block_b * num_in * dim_in
        agreed += block_b * num_out * dim_out
        ds += block_b * num_out * dim_out
    jed = je[None, :, :] * dim_in + (first_d + d)[:, None, None]
    filled_jed = filled_d[:, None, None] & filled_je[None, :, :]
    grad_weight += i * (dim_in * num_out * dim_out)
    tl.store(grad_weight + jed, tl.reshape(total, (block_d, block_j, block_e)), mask=filled_jed)


@_kernel
def _votes(
    poses: tl.tensor,
    maps: tl.tensor,
    filled_b: tl.tensor,
    filled_je: tl.tensor,
    dim_in: tl.constexpr,
    step: tl.constexpr,
    block_j: tl.constexpr,
    block_b: tl.constexpr,
    block_e: tl.constexpr,
) -> tl.tensor:
    """Return votes ``(j, b, e)`` of a child, from the addresses ``(b,)`` of its poses and ``(j, e)`` of its weight."""
    votes = tl.zeros((block_j, block_b, block_e), dtype=poses.dtype.element_ty)
    for d in tl.range(dim_in, loop_unroll_factor=8):
        pose = tl.load(poses + d, mask=filled_b, other=0.0)
        column = tl.load(maps + d * step, mask=filled_je, other=0.0)
        votes += pose[None, :, None] * column[:, None, :]
    return votes


@_kernel
def _couplings(votes: tl.tensor, agreement: tl.tensor, filled_j: tl.tensor, leaky: tl.constexpr) -> tl.tensor:
    """Return couplings ``(j, b)`` by agreement with V; see `coupling_coefficients`."""
    logits = tl.where(filled_j, tl.sum(votes * agreement, axis=2), float("-inf"))
    highest = tl.max(logits, axis=0)
    if leaky:
        highest = tl.maximum(highest, 0.0)
    powers = tl.exp(logits - highest[None, :])
    total = tl.sum(powers, axis=0)
    if leaky:
        total += tl.exp(-highest)
    return powers / total[None, :]


@_kernel
def _grad_logits(votes: tl.tensor, ds: tl.tensor, couplings: tl.tensor) -> tl.tensor:
    """Return the gradients ``(j, b)`` of the logits, from those of the inputs of the parents."""
    gain = couplings * tl.sum(votes * ds, axis=2)
    return gain - couplings * tl.sum(gain, axis=0)[None, :]


@_kernel
def _add_up(
    partials: tl.tensor,
    filled: tl.tensor,
    chunks: tl.tensor,
    size: tl.tensor,
    block_c: tl.constexpr,
    block_r: tl.constexpr,
    block_e: tl.constexpr,
) -> tl.tensor:
    """Return the sum over the chunks, from the addresses ``(r, e)`` of the first chunk."""
    total = tl.zeros((block_r, block_e), dtype=partials.dtype.element_ty)
    for first_c in range(0, chunks, block_c):
        c = first_c + tl.arange(0, block_c).to(tl.int64)[:, None, None]
        some = tl.load(partials[None, :, :] + c * size, mask=filled[None, :, :] & (c < chunks), other=0.0)
        total += tl.sum(some, axis=0)
    return total
