"""The procedure that the routings of matrix capsules share, as plain loops, and what they are tested on."""

import numpy as np
import torch

from capsule_lightning.capsules import Capsules
from capsule_lightning.models.conv_capsules import ConvCapsules

CHILDREN, PARENTS, DIM = 6, 3, 4


def procedure(votes, activations, children, fit, log_weights, iterations, start=None, within_types=False, floor=0.0):
    """Routing in windows; a child divides itself among all parents of all windows that it appears in.

    Args:
        votes: ``(W, I, J, E)``, of the children of each window.
        activations: ``(W, I)``.
        children: ``(W, I)``, which child stands there.
        fit: votes ``(I, J, E)``, weights ``(I, J)`` and the number of the iteration to the parents of a window.
        log_weights: votes ``(I, J, E)`` and the parents of their window to ``(I, J)``.
        iterations: number of them.
        start: couplings of the first iteration; None for equal ones.
        within_types: each type of parents divides a child by itself, its densities as multiples of the largest.
        floor: the least that densities are divided by.

    Returns:
        The parents of each window, and couplings ``(W, I, J)``.
    """
    logits = np.zeros(votes.shape[:3])
    for t in range(iterations):
        couplings = np.zeros_like(logits)
        for child in np.unique(children):
            seen = children == child
            share = np.exp(logits[seen] - logits[seen].max())
            couplings[seen] = share / share.sum()
            if within_types:
                share = np.exp(logits[seen] - logits.max(axis=(0, 1)))
                couplings[seen] = share / (share.sum(axis=0) + 1e-7)
            elif floor:
                share = np.exp(logits[seen])
                couplings[seen] = share / max(share.sum(), floor)
        if t == 0 and start is not None:
            couplings[:] = start
        parents = [fit(v, r * a[:, None], t) for v, r, a in zip(votes, couplings, activations, strict=True)]
        logits = np.stack([log_weights(v, parent) for v, parent in zip(votes, parents, strict=True)])
    return parents, couplings


def one_window(votes, activations, steps, iterations, **options):
    """`procedure` where every child appears once."""
    parents, couplings = procedure(
        votes[None], activations[None], np.arange(len(votes))[None], *steps, iterations, **options
    )
    return parents[0], couplings[0]


def windows(layer, maps):
    """What a convolutional layer routes: votes ``(W, I, J, E)``, activations and children ``(W, I)`` of one example.

    Cut and voted in plain loops; padding stands for children that are absent.
    """
    rows, columns, types, dim = maps.poses.shape[1:]
    p, stride, (high, wide) = layer.windows.padding, layer.windows.stride, layer.windows.kernel
    side = round(dim**0.5)
    padded = np.zeros((rows + 2 * p, columns + 2 * p, types, side, side))
    padded[p : p + rows, p : p + columns] = maps.poses[0].reshape(rows, columns, types, side, side)
    present = np.zeros(padded.shape[:3])
    present[p : p + rows, p : p + columns] = maps.activations[0]
    number = np.arange(present.size).reshape(present.shape)
    weight = layer.routing.weight.detach().numpy()  # (I, J, n, n)
    votes, activations, children = [], [], []
    for y in range(0, padded.shape[0] - high + 1, stride):
        for x in range(0, padded.shape[1] - wide + 1, stride):
            places = np.ix_(range(y, y + high), range(x, x + wide))
            matrices = padded[places].reshape(-1, side, side)
            votes.append([[(m @ w).ravel() for w in ws] for m, ws in zip(matrices, weight, strict=True)])
            activations.append(present[places].ravel())
            children.append(number[places].ravel())
    return np.array(votes), np.array(activations), np.array(children)


def convolution(routing, stride=1, padding=0, competition="auto"):
    """A convolutional layer in float64 with parameters moved from where they start, and a map of children."""
    layer = ConvCapsules(
        (5, 4), 2, DIM, PARENTS, DIM, routing=routing, stride=stride, padding=padding, competition=competition
    ).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    maps = Capsules(torch.randn(1, 5, 4, 2, DIM).double(), torch.rand(1, 5, 4, 2).double())
    return layer, maps


def case(*leading, dim=DIM):
    """Votes, activations, beta_u and beta_a in float64 that want a gradient."""
    votes = torch.randn(*leading, CHILDREN, PARENTS, dim, dtype=torch.float64)
    activations = torch.rand(*leading, CHILDREN, dtype=torch.float64)
    beta_u, beta_a = torch.randn(2, PARENTS, dtype=torch.float64)
    return [part.requires_grad_() for part in (votes, activations, beta_u, 100 * beta_a)]
