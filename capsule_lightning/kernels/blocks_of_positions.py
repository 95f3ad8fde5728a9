"""Capsule maps routed some rows at a time, so that votes are never stored for all positions at once.

Written with plain autograd, a layer keeps the votes of all positions for the backward pass, and the products that
routing makes of them besides. Positions do not depend on each other once their windows are cut, so the votes of a block
of rows can be formed, routed and dropped; the backward pass forms them again. What a layer keeps is its children and
its parents, and what it needs for a moment is the votes of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from capsule_lightning.capsules import Capsules
from capsule_lightning.layers.shared_kernel import SharedKernel

_MOST_NUMBERS = {"cpu": 2**21, "cuda": 2**25}
"""Numbers in the votes of a block: 8 MiB in float32 on a CPU, 128 MiB on a GPU; convolutions of fewer rows are slow."""


class Block(NamedTuple):
    """Positions that are routed together.

    Attributes:
        examples: their slice of the batch.
        seen: the rows of the padded map of children that they see.
        rows: their rows in the map of parents.
    """

    examples: slice
    seen: slice
    rows: slice


def blocks_of(batch: int, rows: int, votes_of_row: int, kernel: SharedKernel, device: str) -> list[Block]:
    """Divide the positions of maps into blocks of rows, or of whole examples if these are small.

    Args:
        batch: examples.
        rows: rows of a map of parents.
        votes_of_row: numbers in the votes for one row of parents.
        kernel: what of the children a row of parents sees.
        device: type of the device, which decides how large a block is.
    """
    most, step = _MOST_NUMBERS.get(device, _MOST_NUMBERS["cpu"]), kernel.parents_per_row
    parts = rows // step
    examples = max(1, most // max(1, rows * votes_of_row))
    height = parts if examples > 1 else max(1, most // (step * votes_of_row))
    height = ceil(parts / ceil(parts / height))  # of about equal size
    return [
        Block(
            slice(first, first + examples), kernel.seen(top, min(top + height, parts)),
            slice(top * step, min(top + height, parts) * step),
        )
        for first in range(0, batch, examples)
        for top in range(0, parts, height)
    ]  # fmt: skip


def route_in_blocks(router: nn.Module, children: Capsules, size: tuple[int, int], blocks: list[Block]) -> Capsules:
    """Return what a module makes of maps, computed one block after the other, forwards and backwards.

    The result can be differentiated once. It is the module's to see to it that positions do not depend on each other.

    Args:
        router: turns some rows of padded children, ``poses (B, H, W, A, D), activations (B, H, W, A)``, into parents,
            ``poses (B, y, x, J, E), activations (B, y, x, J)``, without drawing random numbers.
        children: the padded maps of children.
        size: rows and columns of the map of parents.
        blocks: all positions of all examples, each once.
    """
    names, parameters = zip(*router.named_parameters(), strict=True)
    poses, activations = _InBlocks.apply(router, names, blocks, size, *children, *parameters)
    return Capsules(poses, activations)


class _InBlocks(torch.autograd.Function):
    """The autograd function of `route_in_blocks`."""

    @staticmethod
    def forward(
        ctx: Any,
        router: nn.Module,
        names: tuple[str, ...],
        blocks: list[Block],
        size: tuple[int, int],
        poses: Tensor,
        activations: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        parents: list[Tensor] = []
        for block in blocks:
            found = router(Capsules(*_seen(block, poses, activations)))
            if not parents:
                parents = [part.new_empty(len(poses), *size, *part.shape[3:]) for part in found]
            for whole, part in zip(parents, found, strict=True):
                whole[block.examples, block.rows] = part
        ctx.save_for_backward(poses, activations, *parameters)
        ctx.router, ctx.names, ctx.blocks = router, names, blocks
        device = poses.device.type
        ctx.autocast = (
            (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
            if torch.amp.is_autocast_available(device)
            else None
        )
        ctx.set_materialize_grads(False)
        return tuple(parents)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *of_parents: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[4:]
        saved = [tensor.detach().requires_grad_(need) for tensor, need in zip(ctx.saved_tensors, needed, strict=True)]
        gradients = [torch.zeros_like(tensor) if need else None for tensor, need in zip(saved, needed, strict=True)]
        parameters = saved[2:]
        weights = dict(zip(ctx.names, parameters, strict=True))
        for block in ctx.blocks if any(part is not None for part in of_parents) else ():
            children = [
                part.detach().requires_grad_(need) for part, need in zip(_seen(block, *saved[:2]), needed, strict=False)
            ]
            with torch.enable_grad(), _same_autocast(ctx.autocast):
                parents = functional_call(ctx.router, weights, (Capsules(*children),))
            pairs = [
                (part, grad[block.examples, block.rows])
                for part, grad in zip(parents, of_parents, strict=True)
                if grad is not None and part.requires_grad
            ]
            inputs = [tensor for tensor in (*children, *parameters) if tensor.requires_grad]
            outputs, grads = zip(*pairs, strict=True) if pairs else ((), ())
            found = iter(torch.autograd.grad(outputs, inputs, grads, allow_unused=True) if pairs else ())
            for number, (whole, need) in enumerate(zip(gradients, needed, strict=True)):
                part = next(found, None) if need else None
                if part is not None and whole is not None:
                    (whole[block.examples, block.seen] if number < 2 else whole).add_(part)
        return (None, None, None, None, *gradients)


def _seen(block: Block, *maps: Tensor) -> Iterator[Tensor]:
    return (part[block.examples, block.seen] for part in maps)


def _same_autocast(state: tuple[str, torch.dtype, bool] | None) -> torch.autocast:
    """Autocast as it was in the forward pass; without its cache, which would outlive a block."""
    device, dtype, enabled = state or ("cpu", torch.bfloat16, False)
    return torch.autocast(device, dtype, enabled, cache_enabled=False)
