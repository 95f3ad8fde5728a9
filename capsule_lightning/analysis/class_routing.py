"""How the class capsules are routed: who votes for whom, from which place, and how well the votes agree."""

from __future__ import annotations

from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import CapsuleMap
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.routing.base import Routing


class ClassRouting(NamedTuple):
    """The routing of the class capsules, and what it has made of some images.

    Attributes:
        routing: the module.
        children: ``poses (..., I, D), activations (..., I)``, with the leading dimensions that the module was given.
        parents: ``poses (..., J, E), activations (..., J)``.
    """

    routing: Routing
    children: Capsules
    parents: Capsules


@torch.no_grad()
def class_routing(net: CapsuleNet, images: Tensor) -> ClassRouting | None:
    """Run a network and observe its last routing.

    Args:
        net: the network.
        images: ``(B, C, H, W)``, as the network expects them.

    Returns:
        What was observed; None if the network has no routing, or runs its layers side by side.
    """
    found = [module for module in net.modules() if isinstance(module, Routing)]
    seen: list[ClassRouting] = []

    def look(module: nn.Module, inputs: tuple[Capsules], parents: Capsules) -> None:
        seen.append(ClassRouting(found[-1], inputs[0], parents))

    if not found:
        return None
    handle = found[-1].register_forward_hook(look)
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled networks need not call hooks
            net(images)
    finally:
        handle.remove()
    return seen[-1] if seen else None


@torch.no_grad()
def couplings_by_iteration(seen: ClassRouting) -> Tensor:
    """Return the coupling coefficients after 1, 2, ... passes of routing, image by image.

    Returns:
        ``(T, B, I, J)``, see `Routing.couplings_by_pass`.
    """
    couplings = seen.routing.couplings_by_pass(seen.children)
    return couplings.reshape(len(couplings), -1, *couplings.shape[-2:])


def _by_image(couplings: Tensor) -> Tensor:
    return couplings.reshape(-1, *couplings.shape[-2:])


@full_precision
def coupling_entropy(couplings: Tensor, activations: Tensor) -> Tensor:
    """Return how evenly children divide themselves: 1 if all parents get the same, 0 if each child has one parent.

    This is the entropy of a child's couplings, made to sum to 1, divided by that of uniform ones, and averaged over the
    children weighted by their activations, since a child that sees nothing decides nothing.

    Args:
        couplings: ``(..., I, J)``, at least 0, J at least 2.
        activations: ``(..., I)``, at least 0.

    Returns:
        ``(...)`` in [0, 1].
    """
    shares = couplings / couplings.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(couplings.dtype).tiny)
    entropy = torch.special.entr(shares).sum(dim=-1) / log(couplings.shape[-1])  # (..., I)
    return _weighted_mean(entropy, activations)


@full_precision
def vote_agreement(votes: Tensor, parents: Tensor, weights: Tensor) -> Tensor:
    """Return how well votes point where the parent does: the mean cosine of votes and parent.

    Args:
        votes: ``(..., I, E)``, for one parent.
        parents: ``(..., E)``, its pose.
        weights: ``(..., I)``, at least 0, the weights of the votes.

    Returns:
        ``(...)`` in [-1, 1].
    """
    return _weighted_mean(torch.cosine_similarity(votes, parents.unsqueeze(-2), dim=-1), weights)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum(dim=-1) / weights.sum(dim=-1).clamp_min(torch.finfo(weights.dtype).tiny)


@torch.no_grad()
def agreement(seen: ClassRouting) -> Tensor | None:
    """Return how well the votes for the longest class capsule agree with its pose.

    Votes are weighted by coupling and activation.

    Returns:
        ``(B)`` in [-1, 1]; None if the routing forms no votes that are a matrix times a pose.
    """
    votes = seen.routing.votes(seen.children.poses)
    if votes is None:
        return None
    votes = votes.reshape(-1, *votes.shape[-3:])  # (B, I, J, E)
    couplings = _by_image(seen.routing.couplings(seen.children))
    parents = seen.parents.poses.reshape(len(votes), *votes.shape[-2:])
    activations = seen.children.activations.reshape(len(votes), -1)
    winner = seen.parents.activations.reshape(len(votes), -1).argmax(dim=-1)
    rows = torch.arange(len(votes), device=votes.device)
    weights = couplings[rows, :, winner] * activations
    return vote_agreement(votes[rows, :, winner], parents[rows, winner], weights)


def child_map(net: CapsuleNet) -> CapsuleMap | None:
    """Return where the children of a network's class capsules lie; None if that is not known, or all in one place."""
    found = net.child_map()
    return None if found is None or found.rows * found.columns == 1 else found


def vote_maps(couplings: Tensor, activations: Tensor, places: CapsuleMap) -> Tensor:
    """Return how much more each place gives to each class than to the average class; 0 is a place without preference.

    What a place gives is coupling times activation, summed over the types of children there.

    Args:
        couplings: ``(..., I, J)``.
        activations: ``(..., I)``.
        places: where the I children lie.

    Returns:
        ``(..., J, rows, columns)``.
    """
    given = (couplings - couplings.mean(dim=-1, keepdim=True)) * activations.unsqueeze(-1)
    *leading, _, classes = given.shape
    if places.by_type:
        given = given.reshape(*leading, places.types, places.rows, places.columns, classes)
        return given.sum(dim=-4).movedim(-1, -3)
    given = given.reshape(*leading, places.rows, places.columns, places.types, classes)
    return given.sum(dim=-2).movedim(-1, -3)
