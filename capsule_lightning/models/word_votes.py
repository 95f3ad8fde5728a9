"""What the children of class capsules, which see words of a text, add to each class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.capsules import Capsules
from capsule_lightning.routing.base import Routing


def child_votes(routing: Routing, children: Capsules) -> Tensor:
    """Return the part of each child's vote, times its coupling, that points the way of the class capsule.

    Of a routing that does not state its votes it is the coupling times the activation.

    Args:
        routing: of the class capsules.
        children: ``poses (..., I, D), activations (..., I)``.

    Returns:
        ``(..., I, J)``.
    """
    couplings, votes = routing.couplings(children), routing.votes(children.poses)
    if votes is None:
        return couplings * children.activations.unsqueeze(-1)
    direction = F.normalize(routing(children).poses, dim=-1)
    return couplings * torch.einsum("...ije,...je->...ij", votes, direction)
