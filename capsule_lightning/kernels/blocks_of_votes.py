"""Votes of a few examples at a time, on the CPU, so that they stay in the cache.

Written with plain autograd, routing streams the votes ``(B, I, J, E)`` through memory many times a step and keeps
several tensors of that size. Examples do not depend on each other, so the votes of a block of examples can be formed,
used by every pass, and dropped; the backward pass forms them again. Nothing of their size is kept.

Index letters are those of `capsule_lightning.layers`; also ``n`` examples of a block, ``nj`` pairs of example and
parent, and ``T`` vectors that one product takes at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

_MOST_NUMBERS = 16 * 2**20  # in the votes of a block: 64 MiB in float32, a bound on memory
_FEW_NUMBERS = 2**18  # 1 MiB: smaller blocks cost more by their number than the cache gains
_MOST_EXAMPLES = 17  # the votes of 11 to 17 examples of the paper's layer fit into the last cache of today's servers
_CACHE_LINE = 16  # numbers: 64 bytes in float32


def examples_per_block(batch: int, votes_of_one: int) -> int:
    """Return an odd number of examples for each block: as few blocks as memory and cache allow, of about equal size.

    The votes of a child in a block lie together, ``n * J * E`` numbers, and those for one parent are read child after
    child. If the distance from child to child were a multiple of a high power of two, they would fall into a few sets
    of the cache and evict each other.

    Args:
        batch: number of examples.
        votes_of_one: numbers in the votes of one example, ``I * J * E``.
    """
    batch = max(1, batch)
    most = max(_MOST_EXAMPLES, _FEW_NUMBERS // votes_of_one)
    blocks = ceil(batch / min(max(1, _MOST_NUMBERS // votes_of_one), most))
    return ceil(batch / blocks) | 1


def choose_backend(backend: str, poses: Tensor, weight: Tensor) -> str:
    """Return what ``auto`` stands for: ``blocked`` in float32 on a CPU unless torch is compiling, otherwise ``torch``.

    Any other backend is returned as it is. The choice does not depend on the size of the batch, so that the memory that
    a step keeps grows evenly with it.
    """
    if backend != "auto":
        return backend
    suited = poses.device.type == "cpu" and weight.dtype == torch.float32 and not torch.compiler.is_compiling()
    return "blocked" if suited else "torch"


class Block(NamedTuple):
    """The votes of some examples.

    Attributes:
        part: the examples' slice of the batch.
        votes: ``(I, n, J * E)``.
        of_parents: the same memory, parent by parent: ``(nj, I, E)``.
    """

    part: slice
    votes: Tensor
    of_parents: Tensor


class Votes:
    """The votes of a batch, one block at a time, all in one piece of memory that stays in the cache.

    Args:
        poses: ``(B, I, D)``, poses of the children.
        weight: ``(I, J, E, D)``.
        block: examples at a time; None for as many as `examples_per_block` returns.
    """

    def __init__(self, poses: Tensor, weight: Tensor, block: int | None) -> None:
        (self.batch, self.num_in, _), (_, self.num_out, self.dim_out, _) = poses.shape, weight.shape
        self.block = block or examples_per_block(self.batch, weight[..., 0].numel())
        self.children = poses.transpose(0, 1).contiguous()  # (I, B, D)
        self.maps = weight.flatten(1, 2).transpose(1, 2)  # (I, D, J * E)
        self.memory = poses.new_empty(self.num_in * (self.block * self.num_out * self.dim_out + 2 * _CACHE_LINE))

    def blocks(self) -> Iterator[Block]:
        """Yield one block after the other, each in the memory of the one before."""
        for start in range(0, self.batch, self.block):
            part = slice(start, start + self.block)
            children = self.children[:, part]
            shape = self.num_in, children.shape[1], self.maps.shape[2]
            votes = self.memory[: shape[0] * shape[1] * shape[2]].view(shape)  # without gaps; see `spread`
            yield Block(part, torch.bmm(children, self.maps, out=votes), self.by_parents(votes))

    def backward(self) -> VotesBackward:
        """Return what collects the gradients of the votes, block by block."""
        self.maps = self.maps.contiguous()  # a copy that pays off, as many products use it
        return VotesBackward(self)

    def spread(self, examples: int) -> Tensor:
        """Return a view ``(I, n, J * E)`` of the memory in which children are an odd number of cache lines apart.

        The reason is that of `examples_per_block`: writing the gradient of the votes parent by parent then takes little
        more than half the time. The votes themselves lie without gaps, because only then is the product that forms all
        of them fast.
        """
        of_child = self.num_out * self.dim_out
        lines = ceil(examples * of_child / _CACHE_LINE)
        row = _CACHE_LINE * (lines + 1 - lines % 2)
        return self.memory.as_strided((self.num_in, examples, of_child), (row, of_child, 1))

    def by_parents(self, votes: Tensor) -> Tensor:
        """Return a view of ``(I, n, J * E)`` parent by parent, ``(nj, I, E)``."""
        return votes.view(*votes.shape[:2], self.num_out, self.dim_out).flatten(1, 2).transpose(0, 1)


class VotesBackward:
    """The gradients of children and weight, collected from the gradients of the votes of one block after the other.

    Args:
        votes: the votes, formed block by block; the gradient of a block overwrites the memory of its votes.
    """

    def __init__(self, votes: Votes) -> None:
        self.votes = votes
        self._children, self._maps = torch.empty_like(votes.children), torch.zeros_like(votes.maps)

    def add(self, block: Block, coefficients: Tensor, vectors: Tensor) -> None:
        """Add the gradient of a block, in which that of a vote is a sum of T terms, each a coefficient times a vector.

        Args:
            block: the block, whose votes are overwritten.
            coefficients: ``(n, J, T, I)``, one for each child and parent.
            vectors: ``(n, J, T, E)``, one for each parent.
        """
        gradient = self.votes.spread(len(vectors))  # (I, n, J * E)
        of_parents = self.votes.by_parents(gradient)
        torch.bmm(coefficients.flatten(0, 1).transpose(1, 2), vectors.flatten(0, 1), out=of_parents)
        self._children[:, block.part] = torch.bmm(gradient, self.votes.maps.transpose(1, 2))
        self._maps.baddbmm_(self.votes.children[:, block.part].transpose(1, 2), gradient)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of the poses ``(B, I, D)`` and of the weight ``(I, J, E, D)``."""
        weight = self._maps.transpose(1, 2).reshape(self.votes.num_in, self.votes.num_out, self.votes.dim_out, -1)
        return self._children.transpose(0, 1), weight


def agreement(vectors: Tensor, block: Block) -> Tensor:
    """Return ``(n, J, T, I)``, the products of each vote with the vectors ``(n, J, T, E)`` of its parent."""
    votes = block.of_parents
    return torch.bmm(vectors.flatten(0, 1), votes.transpose(1, 2)).view(*vectors.shape[:3], votes.shape[1])


def weighted_sum(coefficients: Tensor, block: Block) -> Tensor:
    """Return ``(n, J, T, E)``, the sum over the children of ``coefficients (n, J, T, I)`` times their votes."""
    votes = block.of_parents
    return torch.bmm(coefficients.flatten(0, 1), votes).view(*coefficients.shape[:3], votes.shape[2])
