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


def require_passes(iterations: int, paper: int = 3) -> None:
    """Raise unless there is at least one pass of routing.

    Args:
        iterations: number of passes.
        paper: number of passes in the paper of the algorithm, for the message.

    Raises:
        InputError: ``iterations`` is below 1.
    """
    require(iterations >= 1, f"iterations={iterations}: expected at least 1 pass of routing (the paper uses {paper})")
