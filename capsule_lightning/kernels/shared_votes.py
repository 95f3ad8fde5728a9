"""Dynamic routing of children that share their vote matrices, without a single vote in memory.

If the children of a parent have one matrix W[k, j], the sum of their votes is that matrix times the sum of their poses,
and the agreement of a vote with a vector v is that of the pose with W[k, j]^T v. Nothing of the size of the votes
``(B, I, J, E)`` is formed. What remains are the couplings ``(B, I, J)``, which are formed for a few examples at a time,
and again by the backward pass unless there are few of them.

Index letters are those of `capsule_lightning.layers`; also ``n`` examples of a block, ``k`` matrices, and ``p``
children that share one: child ``i = p K + k``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import repeat

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from capsule_lightning.layers.couplings import coupling_coefficients
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash

MOST_COUPLINGS = 2**22
"""Coupling coefficients of a block: 16 MiB in float32, unless one example has more."""
FEW_COUPLINGS = 2**20
"""Coupling coefficients of a batch that are kept for the backward pass, rather than formed again."""


@full_precision
def shared_dynamic_routing(
    poses: Tensor,
    weight: Tensor,
    iterations: int = 3,
    bias: Tensor | None = None,
    leaky: bool = False,
    detach: bool = False,
    block: int | None = None,
    activations: Tensor | None = None,
    offset: float = 1.0,
) -> Tensor:
    """Compute `dynamic_routing` of `vote` from poses and matrices alone.

    The most that is held at once is a few times the couplings of a block, ``n I J`` numbers; between the passes nothing
    is kept but poses, weight and parents, or all couplings of all passes if a batch has no more than `FEW_COUPLINGS`.

    Args:
        poses: ``(B, I, D)``, poses of the children.
        weight: ``(K, J, E, D)``, in the dtype of ``poses``; child i uses the matrices of row i modulo K.
        iterations, bias, leaky, detach, offset: see `capsule_lightning.routing.dynamic.dynamic_routing`.
        block: examples at a time; None for as many as have `MOST_COUPLINGS` couplings.
        activations: ``(B, I)``, by which the couplings of each child are multiplied; None to leave them.

    Returns:
        Poses of the parents ``(B, J, E)``.

    Source: Sabour et al. 2017 (arXiv 1710.09829), Procedure 1, with the matrices of Gu & Tresp 2020 (arXiv 1911.07968).
    Since ``b_t = sum_{s<t} u_hat . v_s``, the logits of a pass are the votes times the sum of all parents before it.
    """
    count, num_out = weight.shape[0], weight.shape[1]
    size = block or max(1, MOST_COUPLINGS // (poses.shape[1] * num_out))
    children = poses.reshape(len(poses), poses.shape[1] // count, count, poses.shape[2]).transpose(1, 2)  # (B, K, P, D)
    parents = partial(
        _parents, weight=weight, iterations=iterations, bias=bias, leaky=leaky, detach=detach, offset=offset
    )
    if activations is None:
        blocks: Iterable[tuple[Tensor, Tensor | None]] = zip(torch.split(children, size), repeat(None))
    else:
        shares = activations.to(poses.dtype).reshape(len(poses), -1, count, 1).transpose(1, 2)  # (B, K, P, 1)
        blocks = zip(torch.split(children, size), torch.split(shares, size), strict=True)
    few = len(poses) * poses.shape[1] * num_out <= FEW_COUPLINGS
    if few or not torch.is_grad_enabled():
        return torch.cat([parents(*block) for block in blocks])
    parts = [checkpoint(parents, *block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    return torch.cat(parts)


def _parents(
    children: Tensor,
    shares: Tensor | None,
    weight: Tensor,
    iterations: int,
    bias: Tensor | None,
    leaky: bool,
    detach: bool,
    offset: float,
) -> Tensor:
    """Return the parents ``(n, J, E)`` of a block ``(n, K, P, D)`` whose couplings ``(n, K, P, 1)`` multiply."""
    amended = children if shares is None else shares * children

    def parents(sums: Tensor) -> Tensor:
        """Return the parents of sums of poses ``(n, K, J, D)`` or, if they are the same for all, ``(n, K, D)``."""
        form = "nkjd,kjed->nje" if sums.ndim == 4 else "nkd,kjed->nje"
        s = torch.einsum(form, sums, weight)
        return squash(s if bias is None else s + bias, offset=offset)

    def passes() -> tuple[Tensor, Tensor | None]:
        """Return the sums of the last pass and its couplings, which are uniform in the first."""
        sums, couplings = amended.sum(dim=2) / (weight.shape[1] + leaky), None
        agreed: Tensor | None = None
        for _ in range(iterations - 1):
            v = parents(sums)
            agreed = v if agreed is None else agreed + v  # V
            seen = torch.einsum("nje,kjed->nkjd", agreed, weight)
            couplings = coupling_coefficients(children @ seen.transpose(-1, -2), leaky)  # (n, K, P, J)
            sums = couplings.transpose(-1, -2) @ amended
        return sums, couplings

    if not detach:
        return parents(passes()[0])
    with torch.no_grad():
        couplings = passes()[1]
    if couplings is None:
        return parents(amended.sum(dim=2) / (weight.shape[1] + leaky))
    return parents(couplings.transpose(-1, -2) @ amended)
