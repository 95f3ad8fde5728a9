"""Coupling coefficients: how a child capsule divides itself among the parents."""

from __future__ import annotations

import torch
from torch import Tensor

from capsule_lightning.errors import require
from capsule_lightning.layers.precision import full_precision


@full_precision
def coupling_coefficients(logits: Tensor, leaky: bool = False, dim: int = -1) -> Tensor:
    """Return coupling coefficients, a softmax over the parents: ``c[i, j] = exp(b[i, j]) / sum_k exp(b[i, k])``.

    Args:
        logits: ``(..., I, J)``, routing logits b, or any layout with the parents along ``dim``.
        leaky: add a "none of the above" parent with logit zero to each softmax, so that the couplings of a child to the
            real parents sum to less than 1.
        dim: axis of the parents.

    Returns:
        Tensor of the shape of ``logits``, float32 or wider.

    Source: Sabour et al. 2017, Eq. 3; ``leaky`` is how their released code implements the none-of-the-above category of
    section 7 for CIFAR-10.
    """
    if not leaky:
        return logits.softmax(dim=dim)
    none_of_the_above = torch.zeros_like(logits.narrow(dim, 0, 1))
    return torch.cat([logits, none_of_the_above], dim=dim).softmax(dim=dim).narrow(dim, 0, logits.shape[dim])


@full_precision
def without_strays(couplings: Tensor, log_total: Tensor, log_floor: float) -> Tensor:
    """Return couplings in which a child whose densities under all parents are tiny has next to no part.

    The densities are divided by their sum, but by no less than a floor.

    Args:
        couplings: ``(..., I, J)``, of densities that were divided by their sum.
        log_total: ``(..., I)``, the logarithm of that sum.
        log_floor: the logarithm of the least that densities are divided by.

    Returns:
        Tensor of the shape of ``couplings``.

    Source: the released code of De Sousa Ribeiro et al. 2020, whose floor is 1e-11.
    """
    return couplings * (log_total - log_floor).clamp(max=0).exp().unsqueeze(-1)


def require_passes(iterations: int, paper: int = 3) -> None:
    """Raise unless there is at least one pass of routing.

    Args:
        iterations: number of passes.
        paper: number of passes in the paper of the algorithm, for the message.

    Raises:
        InputError: ``iterations`` is below 1.
    """
    require(iterations >= 1, f"iterations={iterations}: expected at least 1 pass of routing (the paper uses {paper})")
