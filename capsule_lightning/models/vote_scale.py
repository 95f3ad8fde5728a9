"""The scale of vote matrices before training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.capsules import Capsules
from capsule_lightning.routing.base import Routing


@torch.no_grad()
def scale_votes(
    routing: Routing,
    length: float = 0.5,
    activation: float | None = None,
    children: float | None = None,
    different: int | None = None,
) -> None:
    """Multiply vote matrices so that parents of random children have a length, as far as activations are lengths.

    Several squashes in a row would else leave nothing of an image or a text: each makes short vectors shorter by the
    square. Children of random directions, which are the same for every network, are routed, and the matrices follow
    from how long their parents are. Routings whose activations are no lengths stay as they are.

    Args:
        routing: is changed.
        length: of parents, in (0, 1).
        activation: of the children; None for their length.
        children: length of the children's poses; None for ``length``.
        different: how many of the children differ, a divisor of their number, and the others repeat them; None for all.

    Source: Mishkin & Matas, All You Need Is a Good Init, ICLR 2016 (arXiv 1511.06422), for setting the size of weights
    by what a layer gives.
    """
    weight = getattr(routing, "weight", None)
    if not (routing.gives_lengths and isinstance(weight, Tensor)) or weight.is_meta:
        return
    kinds = routing.num_in if different is None else different
    draws = torch.randn(4, kinds, routing.dim_in, generator=torch.Generator("cpu").manual_seed(0))
    draws = draws.repeat(1, routing.num_in // kinds, 1)
    poses = (length if children is None else children) * F.normalize(draws.to(weight), dim=-1)
    capsules = Capsules.from_vectors(poses)
    if activation is not None:
        capsules = capsules._replace(activations=torch.full_like(capsules.activations, activation))
    for _ in range(5):
        found = routing(capsules).activations.double().mean().clamp(1e-30, 1 - 1e-6)
        weight *= ((length / (1 - length)) / (found / (1 - found))).sqrt()
