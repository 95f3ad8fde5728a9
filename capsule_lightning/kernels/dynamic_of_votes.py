"""Dynamic routing of votes that another layer formed, in which nothing of their size is kept but themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsule_lightning.layers.couplings import coupling_coefficients, require_passes
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash, squash_gradient


@full_precision
def dynamic_routing_of_votes(
    votes: Tensor, iterations: int = 3, bias: Tensor | None = None, leaky: bool = False, detach: bool = False
) -> Tensor:
    """Compute the poses of `capsule_lightning.routing.dynamic.dynamic_routing`; they can be differentiated once.

    Args:
        votes: ``(..., I, J, E)``, in any order in memory, which is read as it is.
        iterations, bias, leaky, detach: see `capsule_lightning.routing.dynamic.dynamic_routing`.

    Returns:
        ``(..., J, E)``.

    Source: Sabour et al. 2017 (arXiv 1710.09829), Procedure 1. As in `cpu_dynamic`, the logits of pass t are the votes
    times ``V_t = sum_{s<t} v_s``.
    """
    require_passes(iterations)
    parents: Tensor = _DynamicOfVotes.apply(votes, bias, iterations, leaky, detach)
    return parents


class _DynamicOfVotes(torch.autograd.Function):
    """The autograd function of `dynamic_routing_of_votes`."""

    @staticmethod
    def forward(ctx: Any, votes: Tensor, bias: Tensor | None, iterations: int, leaky: bool, detach: bool) -> Tensor:
        s = votes.sum(dim=-3).div_(votes.shape[-2] + leaky)
        inputs = [s if bias is None else s.add_(bias)]  # s of each pass
        agreed = torch.zeros_like(s)  # V
        for _ in range(1, iterations):
            agreed = agreed + squash(inputs[-1])
            couplings = coupling_coefficients(_products(votes, agreed), leaky)
            s = (couplings.unsqueeze(-1) * votes).sum(dim=-3)
            inputs.append(s if bias is None else s.add_(bias))
        ctx.save_for_backward(votes, *inputs)
        ctx.leaky, ctx.detach, ctx.biased = leaky, detach, bias is not None
        return squash(inputs[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        votes, *inputs = ctx.saved_tensors
        agreed = [torch.zeros_like(inputs[0])]
        for s in inputs[:-1]:
            agreed.append(agreed[-1] + squash(s))
        gradient, of_bias = torch.zeros_like(votes), torch.zeros_like(inputs[0])
        of_parents, of_agreed = grad, torch.zeros_like(grad)
        for t in range(len(inputs) - 1, 0, -1):
            of_s = squash_gradient(inputs[t], of_parents)
            of_bias += of_s
            couplings = coupling_coefficients(_products(votes, agreed[t]), ctx.leaky)
            gradient.addcmul_(couplings.unsqueeze(-1), of_s.unsqueeze(-3))
            if ctx.detach:  # nothing reaches the parents of the passes before
                break
            of_couplings = _products(votes, of_s) * couplings
            of_logits = of_couplings - couplings * of_couplings.sum(dim=-1, keepdim=True)
            gradient.addcmul_(of_logits.unsqueeze(-1), agreed[t].unsqueeze(-3))
            of_agreed = of_agreed + (of_logits.unsqueeze(-1) * votes).sum(dim=-3)
            of_parents = of_agreed
        else:
            of_s = squash_gradient(inputs[0], of_parents)
            of_bias += of_s
            gradient.add_(of_s.unsqueeze(-3), alpha=1 / (votes.shape[-2] + ctx.leaky))
        return gradient, of_bias.flatten(0, -3).sum(dim=0) if ctx.biased else None, None, None, None


def _products(votes: Tensor, parents: Tensor) -> Tensor:
    """Return ``(..., I, J)``, the products of votes ``(..., I, J, E)`` with their parents' ``(..., J, E)``."""
    return (votes * parents.unsqueeze(-3)).sum(dim=-1)
