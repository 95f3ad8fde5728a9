"""Heinsen's routing of vectors, in which parents predict the children, and well predicted children count more.

Heinsen, An Algorithm for Routing Vectors in Sequences, 2022 (arXiv 2211.11754).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.layers.couplings import coupling_coefficients, require_passes
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.readout import ActivationReadout
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.heinsen_matrix import for_each_child


@full_precision
def heinsen_vector_routing(
    poses: Tensor,
    relevance: Tensor,
    vote_in: Tensor,
    vote_out: Tensor,
    vote_bias: Tensor,
    use: Tensor,
    ignore: Tensor,
    likeness: Callable[[Tensor], Tensor] | None = None,
    iterations: int = 2,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return parents that are sums of votes, each times what it is worth, ``x[j] = sum_i phi[i, j] V[i, j]``.

    The couplings ``R[i, j]`` are 1 / J in the first pass, and then a softmax over the parents of the ``likeness``.
    Parent j uses the share ``U[i, j] = f[i] R[i, j]`` of child i and ignores the rest of ``f[i]``:
    ``phi[i, j] = use[i, j] U[i, j] - ignore[i, j] (f[i] - U[i, j])``.

    The vote of a child with pose u is ``V[i, j] = (u[i] / sqrt(I) * vote_in[j]) @ vote_out + vote_bias[j]``. It is
    linear, so that the children can be summed up first and no vote is ever formed. What a unit of data is worth,
    ``(use[i, j] + ignore[i, j]) R[i, j] - ignore[i, j]``, multiplies children that are multiplied by f before. In the
    first pass it is the same for all examples.

    Args:
        poses: ``(..., I, D)``, u.
        relevance: ``(..., I)`` in [0, 1], f.
        vote_in: ``(J, D)``.
        vote_out: ``(D, E)``.
        vote_bias: ``(J, E)``.
        use: ``(I, J)``, benefit of each unit of data that is used.
        ignore: ``(I, J)``, cost of each unit that is ignored.
        likeness: turns parents ``(..., J, E)``, normalized, into logits ``(..., I, J)``; None for a single pass.
        iterations: number of passes, at least 1.
        normalize: apply `normalize_parents` to the parents that are returned.

    Returns:
        Poses ``(..., J, E)``, and the couplings ``(..., I, J)`` that they were computed with.

    Source: Heinsen 2022, its efficient form.
    """
    relevance = relevance.unsqueeze(-1)
    data = torch.cat([poses * (relevance / sqrt(poses.shape[-2])), relevance], dim=-1)  # (..., I, D + 1)
    gain, cost, num_out = (use + ignore).T, ignore.T, len(vote_in)  # (J, I): parents first, as products need them

    def parents(worth: Tensor) -> Tensor:
        sums: Tensor = worth @ data  # (..., J, D + 1)
        return (sums[..., :-1] * vote_in) @ vote_out + sums[..., -1:] * vote_bias

    couplings = relevance.new_full((*poses.shape[:-2], num_out, poses.shape[-2]), 1 / num_out)
    x = parents(gain / num_out - cost)
    if likeness is not None:
        for _ in range(iterations - 1):
            couplings = coupling_coefficients(likeness(normalize_parents(x)).mT, dim=-2)
            x = parents((gain * couplings).sub_(cost))
    return normalize_parents(x) if normalize else x, couplings.mT


def normalize_parents(x: Tensor) -> Tensor:
    """Apply layer normalization without parameters; poses of one dimension, which would become 0, stay as they are."""
    return F.layer_norm(x, x.shape[-1:]) if x.shape[-1] > 1 else x


@full_precision
def child_relevance(poses: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return how relevant each child is, ``f[i] = sigmoid(w[i] . u[i] / sqrt(I) + b[i])``.

    Args:
        poses: ``(..., I, D)``, u.
        weight: ``(I, D)``, w.
        bias: ``(I)``, b.

    Returns:
        ``(..., I)`` in [0, 1].

    Source: Heinsen 2022.
    """
    return (torch.einsum("...id,id->...i", poses, weight) / sqrt(poses.shape[-2]) + bias).sigmoid()


@full_precision
def predicted_likeness(
    poses: Tensor,
    predict_in: Tensor,
    predict_out: Tensor,
    predict_bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    parents: Tensor,
) -> Tensor:
    """Return how alike each child and its prediction are, ``log sigmoid((u[i] . p[j]) scale[i, j] + shift[i, j])``.

    What parent j predicts for a child is ``p[j] = (x[j] @ predict_in) * predict_out[j] + predict_bias[j]``.

    Args:
        poses: ``(..., I, D)``, of the children, u.
        predict_in: ``(E, D)``.
        predict_out, predict_bias: ``(J, D)``.
        scale, shift: ``(I, J)``.
        parents: ``(..., J, E)``, x.

    Returns:
        ``(..., I, J)``, at most 0.

    Source: Heinsen 2022.
    """
    predictions = (parents @ predict_in) * predict_out + predict_bias
    logits = (predictions @ poses.mT * scale.T).add_(shift.T)  # parents first in memory, for the softmax over them
    return F.logsigmoid(logits).mT


class HeinsenVectorRouting(Routing):
    """Routing by how well parents predict the children, with a benefit for using each and a cost for ignoring it.

    No votes are formed: memory grows with ``I (D + J)``, while that of other algorithms grows with ``I J E``. The
    activations of the children are ignored; the relevance of a child is computed from its pose.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`. The vote weights of a parent are always the same
            for all children; what belongs to a child (its relevance, benefits, costs and the scale of its likeness) is
            shared by children of the same number modulo ``vote_weights``.
        iterations: passes of routing, 2 in the paper; 1 gives uniform couplings.
        normalize: apply layer normalization without parameters to the parents. Poses of one dimension, which it would
            make zero, stay as they are, here and between the passes.
        readout: compute activations as the sigmoid of a linear score of the pose, the same for all parents; otherwise
            every activation is 1.

    Raises:
        InputError: ``iterations`` is below 1.

    Example:
        >>> routing = HeinsenVectorRouting(1152, 8, 10, 16)
        >>> routing(Capsules.from_vectors(torch.rand(2, 1152, 8))).poses.shape
        torch.Size([2, 10, 16])
    """

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        vote_weights: int | None = None,
        iterations: int = 2,
        normalize: bool = True,
        readout: bool = True,
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        require_passes(iterations, paper=2)
        self.iterations, self.normalize = iterations, normalize
        count = self.vote_weights
        self.relevance_weight = _normal(count, dim_in, std=2 / sqrt(dim_in))
        self.relevance_bias = nn.Parameter(torch.zeros(count))
        self.vote_in = _normal(num_out, dim_in)
        self.vote_out = _normal(dim_in, dim_out, std=2 / sqrt(dim_in))
        self.vote_bias = nn.Parameter(torch.zeros(num_out, dim_out))
        self.use, self.ignore = _normal(count, num_out), _normal(count, num_out)
        # with a single pass its parameters would have no gradient
        self.prediction = ChildPredictor(count, dim_in, num_out, dim_out) if iterations > 1 else None
        self.readout = ActivationReadout(dim_out) if readout else None

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        poses = self._route(capsules.poses)[0]
        return Capsules(poses, poses.new_ones(poses.shape[:-1]) if self.readout is None else self.readout(poses))

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the couplings of the last pass, which sum to 1 over the parents."""
        return self._route(capsules.poses)[1]

    def _route(self, poses: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias, use, ignore = (
            for_each_child(p, self.num_in)
            for p in (self.relevance_weight, self.relevance_bias, self.use, self.ignore)
        )  # fmt: skip
        return heinsen_vector_routing(
            poses, child_relevance(poses, weight, bias), self.vote_in, self.vote_out, self.vote_bias, use, ignore,
            None if self.prediction is None else partial(self.prediction, poses), self.iterations, self.normalize,
        )  # fmt: skip


class ChildPredictor(nn.Module):
    """The parameters by which parents predict children; see `predicted_likeness`.

    Args:
        count: rows of the parameters that belong to a child, K; child i has row i modulo K.
        dim_in, num_out, dim_out: see `Routing`.
    """

    def __init__(self, count: int, dim_in: int, num_out: int, dim_out: int) -> None:
        super().__init__()
        self.predict_in = _normal(dim_out, dim_in, std=1 / sqrt(dim_out))
        self.predict_out = _normal(num_out, dim_in)
        self.predict_bias = nn.Parameter(torch.zeros(num_out, dim_in))
        self.scale = _normal(count, num_out, std=1 / sqrt(dim_in))
        self.shift = nn.Parameter(torch.zeros(count, num_out))

    @override
    def forward(self, poses: Tensor, parents: Tensor) -> Tensor:
        """Return logits ``(..., I, J)`` from children ``(..., I, D)`` and parents ``(..., J, E)``."""
        scale, shift = (for_each_child(p, poses.shape[-2]) for p in (self.scale, self.shift))
        return predicted_likeness(
            poses, self.predict_in, self.predict_out, self.predict_bias, scale, shift, parents
        )  # fmt: skip


def _normal(*shape: int, std: float = 1.0) -> nn.Parameter:
    return nn.Parameter(std * torch.randn(*shape))
