"""What goes on where the class capsules are routed: who votes for whom, from which place, and how well they agree."""

from __future__ import annotations

from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import Encoder, MapEncoder
from capsule_lightning.encoders.efficient import EfficientEncoder
from capsule_lightning.encoders.sabour import SabourEncoder, out_size, same_padding
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.votes import vote
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.models.conv_capsules import ConvCapsules
from capsule_lightning.routing.base import MatrixRouting, Routing


class ClassRouting(NamedTuple):
    """The routing of the class capsules, and what it has made of some images.

    Attributes:
        routing: the module.
        children: ``poses (..., I, D), activations (..., I)``, the leading dimensions those that the module was given.
        parents: ``poses (..., J, E), activations (..., J)``.
    """

    routing: Routing
    children: Capsules
    parents: Capsules


@torch.no_grad()
def class_routing(net: CapsuleNet, images: Tensor) -> ClassRouting | None:
    """Run a network and look at its last routing.

    Args:
        net: the network.
        images: ``(B, C, H, W)``, as it expects them.

    Returns:
        None for a network that has none, or that runs its layers side by side.
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
    """Coupling coefficients after 1, 2, ... passes of routing.

    Returns:
        ``(T, B, I, J)``, T the iterations of the routing, 1 where it does not count them.
    """
    routing, children = seen.routing, seen.children
    iterations = getattr(routing, "iterations", None)
    if not isinstance(iterations, int):
        return _by_image(routing.couplings(children)).unsqueeze(0)
    couplings = []
    try:
        for count in range(1, iterations + 1):
            routing.iterations = count  # type: ignore[assignment]
            couplings.append(_by_image(routing.couplings(children)))
    finally:
        routing.iterations = iterations  # type: ignore[assignment]
    return torch.stack(couplings)


def _by_image(couplings: Tensor) -> Tensor:
    return couplings.reshape(-1, *couplings.shape[-2:])


@full_precision
def coupling_entropy(couplings: Tensor, activations: Tensor) -> Tensor:
    """How evenly children divide themselves: 1 where all parents get the same, 0 where each child has one parent.

    The entropy of a child's couplings, made to sum to 1, over that of the uniform ones; the mean over the children
    weighted by their activations, since a child that sees nothing decides nothing.

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
    """How well votes point where the parent does, the mean cosine of votes and parent.

    Args:
        votes: ``(..., I, E)``, for one parent.
        parents: ``(..., E)``, its pose.
        weights: ``(..., I)``, at least 0, of the votes.

    Returns:
        ``(...)`` in [-1, 1].
    """
    return _weighted_mean(torch.cosine_similarity(votes, parents.unsqueeze(-2), dim=-1), weights)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum(dim=-1) / weights.sum(dim=-1).clamp_min(torch.finfo(weights.dtype).tiny)


@torch.no_grad()
def agreement(seen: ClassRouting) -> Tensor | None:
    """Agreement of the votes for the longest class capsule with its pose, votes weighted by coupling and activation.

    Returns:
        ``(B)`` in [-1, 1]; None where the routing forms no votes that are a matrix times a pose.
    """
    votes = _votes(seen)
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


def _votes(seen: ClassRouting) -> Tensor | None:
    routing = seen.routing
    if isinstance(routing, MatrixRouting):
        return routing.votes(seen.children.poses)
    weight = getattr(routing, "weight", None)
    shape = (routing.vote_weights, routing.num_out, routing.dim_out, routing.dim_in)
    return vote(seen.children.poses, weight) if isinstance(weight, Tensor) and weight.shape == shape else None


class ChildMap(NamedTuple):
    """Where the children of the class capsules lie.

    Attributes:
        types: capsules at each place.
        rows, columns: of the map.
        by_type: whether they are ordered by type, row, column; otherwise by row, column, type.
        extent: left, right, bottom and top edge of the map in pixels of the image; None for the whole image.
    """

    types: int
    rows: int
    columns: int
    by_type: bool
    extent: tuple[float, float, float, float] | None


def child_map(net: CapsuleNet) -> ChildMap | None:
    """Where the children of a network's class capsules lie; None where they have no places, or all the same one."""
    layers = [module for module in net.modules() if isinstance(module, ConvCapsules)]
    found: ChildMap | None = None
    if layers:
        rows, columns = layers[-1].windows.size
        found = ChildMap(layers[-1].routing.num_in // (rows * columns), rows, columns, by_type=False, extent=None)
    elif isinstance(net, CapsNet):
        found = _encoder_map(net.encoder)
    return None if found is None or found.rows * found.columns == 1 else found


def _encoder_map(encoder: Encoder) -> ChildMap | None:
    if isinstance(encoder, MapEncoder):
        return ChildMap(encoder.num_types, *encoder.size, by_type=False, extent=None)
    if isinstance(encoder, SabourEncoder):
        layers, padding = [encoder.conv, encoder.primary], encoder.padding
    elif isinstance(encoder, EfficientEncoder):
        layers = [*(layer for layer in encoder.features if isinstance(layer, nn.Conv2d)), encoder.primary]
        padding = "valid"
    else:
        return None
    sizes, edges = [], []
    for axis, size in enumerate(encoder.in_shape[-2:]):
        count, center, step = size, 0.5, 1.0  # the first place, and from one to the next, in pixels of the image
        for layer in layers:
            kernel, stride = layer.kernel_size[axis], layer.stride[axis]
            before = same_padding(count, kernel, stride)[0] if padding == "same" else 0
            count, center, step = (
                out_size(count, kernel, stride, padding),
                center + step * ((kernel - 1) / 2 - before),
                step * stride,
            )
        sizes.append(count)
        edges.append((center - step / 2, center + step * (count - 0.5)))
    rows, columns = sizes
    (top, bottom), (left, right) = edges
    types = encoder.num_capsules // (rows * columns)
    return ChildMap(types, rows, columns, by_type=True, extent=(left, right, bottom, top))


def vote_maps(couplings: Tensor, activations: Tensor, places: ChildMap) -> Tensor:
    """What each place gives to each class above the average class, so that 0 is a place that does not choose.

    What it gives is coupling times activation, summed over the types of children there.

    Args:
        couplings: ``(..., I, J)``.
        activations: ``(..., I)``.
        places: of the I children.

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
