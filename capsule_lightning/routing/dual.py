"""Dual routing, in which a child goes to a parent that agrees with both its pose and its appearance.

Bonheur et al., Matwo-CapsNet: a Multi-label Semantic Segmentation Capsules Network, MICCAI 2019.
"""

from __future__ import annotations

from math import isqrt, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules, lengths_of
from capsule_lightning.errors import require
from capsule_lightning.layers.couplings import require_passes
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.votes import vote, vote_weight
from capsule_lightning.routing.base import Routing

_LEAST = 1e-6  # added to the largest element, by which poses are divided; the released code divides by zero


@full_precision
def dual_routing(votes: Tensor, pose_dims: int, iterations: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Route votes that are a pose, P, followed by an appearance, A.

    ``c[i, j] = sigmoid(b[i, j])``, so that a child may have several parents; ``s[j] = sum_i c[i, j] votes[i, j]``; its
    pose is divided by its largest element, ``P[j] = s_P / max |s_P|``, and its appearance squashed; then
    ``b[i, j] += (P[i, j] . P[j]) (A[i, j] . A[j])``. The gradient flows through all passes.

    Args:
        votes: ``(..., I, J, E)``.
        pose_dims: how many of the first elements of a vote are its pose; at least 1, and less than E.
        iterations: number of passes, at least 1; the first has couplings of 1/2.

    Returns:
        Poses ``(..., J, E)``; activations ``(..., J)`` in [0, 1], ``|P| |A| / sqrt(pose_dims)``; and the couplings
        ``(..., I, J)`` that they were computed with.

    Raises:
        InputError: ``iterations`` is below 1.

    Source: Bonheur et al. 2019. The released code takes ``|P| |A|`` for the score of a class, which may exceed 1.
    """
    require_passes(iterations)
    dims = [pose_dims, votes.shape[-1] - pose_dims]
    # products and sums in place of einsum: faster on a CPU, and traced ten times as fast
    votes_pose, votes_appearance = torch.split(votes, dims, dim=-1)

    def parents(couplings: Tensor) -> tuple[Tensor, Tensor]:
        pose, appearance = torch.split((couplings.unsqueeze(-1) * votes).sum(dim=-3), dims, dim=-1)
        return pose / (pose.abs().amax(dim=-1, keepdim=True) + _LEAST), squash(appearance)

    logits = votes.new_zeros(votes.shape[:-1])
    for _ in range(iterations - 1):
        pose, appearance = parents(logits.sigmoid())
        of_poses = (votes_pose * pose.unsqueeze(-3)).sum(dim=-1)
        logits = logits + of_poses * (votes_appearance * appearance.unsqueeze(-3)).sum(dim=-1)
    couplings = logits.sigmoid()
    pose, appearance = parents(couplings)
    lengths = (lengths_of(part) for part in (pose, appearance))
    return torch.cat([pose, appearance], dim=-1), next(lengths) * next(lengths) / sqrt(pose_dims), couplings


@full_precision
def dual_votes(children: Tensor, pose_weight: Tensor, appearance_weight: Tensor, bias: Tensor) -> Tensor:
    """Return the votes of capsules of a pose matrix P and an appearance matrix A, ``P N(W_P)`` and ``(A + b) W_A``.

    N makes each column of a matrix one long.

    Args:
        children: ``(..., I, J, D)``, or ``(..., I, 1, D)`` if children are the same for all parents, the rows of P one
            after the other and then those of A; ``D = p * p + a * a``.
        pose_weight: ``(K, J, p, p)``, W_P; child i uses the matrices of row i modulo K.
        appearance_weight: ``(K, J, a, a)``, W_A.
        bias: ``(K, J)``, b, added to each element of A.

    Returns:
        ``(..., I, J, D)``.

    Source: Bonheur et al. 2019.
    """
    side, width = pose_weight.shape[-1], appearance_weight.shape[-1]
    repeat = children.shape[-3] // len(bias)
    pose_weight, appearance_weight = (w.repeat(repeat, 1, 1, 1) for w in (pose_weight, appearance_weight))
    pose, appearance = torch.split(children, [side * side, width * width], dim=-1)
    columns = F.normalize(pose_weight, dim=-2)
    appearance = torch.unflatten(appearance, -1, (width, width)) + bias.repeat(repeat, 1)[..., None, None]
    parts = torch.unflatten(pose, -1, (side, side)) @ columns, appearance @ appearance_weight
    return torch.cat([part.flatten(-2) for part in parts], dim=-1)


class DualRouting(Routing):
    """Routing by agreement in pose and in appearance, without competition between parents.

    If children and parents have ``p * p`` elements of pose and ``a * a`` of appearance, both are matrices, see
    `dual_votes`, as in the paper, 4x4 and 5x5; otherwise a vote is a matrix times the whole capsule.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights: see `Routing`.
        iterations: passes of routing, 3 in the paper; 1 gives couplings of 1/2.
        pose_dims: how many of the first elements of a parent are its pose, 16 in the paper; null for 16 of 41, the
            paper's, and otherwise half of them.

    Raises:
        InputError: ``iterations`` is below 1, a parent has a single element, or ``pose_dims`` leaves none for the
            appearance.

    Example:
        >>> routing = DualRouting(5, 41, 6, 41)
        >>> routing(Capsules(torch.rand(2, 5, 41), torch.rand(2, 5))).poses.shape
        torch.Size([2, 6, 41])
    """

    routes_votes = True
    any_number = True

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        vote_weights: int | None = None,
        iterations: int = 3,
        pose_dims: int | None = None,
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights)
        require_passes(iterations)
        if pose_dims is None:
            pose_dims = 16 if dim_out == 41 else dim_out // 2
        require(
            1 <= pose_dims < dim_out,
            f"DualRouting: pose_dims={pose_dims} with parents of {dim_out} dimensions: expected at least one for the "
            "pose and one for the appearance",
        )
        self.iterations, self.pose_dims = iterations, pose_dims
        sides = isqrt(pose_dims), isqrt(dim_out - pose_dims)
        self.matrix = dim_in == dim_out == sides[0] ** 2 + sides[1] ** 2 and pose_dims == sides[0] ** 2
        count = self.vote_weights
        if self.matrix:
            self.pose_weight, self.appearance_weight = (
                vote_weight(count, num_out, side, side, std=0.01 if number == 0 else 1 / sqrt(side))
                for number, side in enumerate(sides)
            )
            self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, num_out), std=0.01, a=-0.02, b=0.02))
        else:
            self.weight = vote_weight(count, num_out, dim_out, dim_in)

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        return self.from_votes(self.votes(capsules.poses), capsules.activations)

    @override
    def from_votes(self, votes: Tensor, activations: Tensor) -> Capsules:
        return Capsules(*dual_routing(votes, self.pose_dims, self.iterations)[:2])

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the couplings of the last pass, each in [0, 1]; they do not sum to 1, as parents do not compete."""
        return dual_routing(self.votes(capsules.poses), self.pose_dims, self.iterations)[2]

    @override
    def votes(self, poses: Tensor) -> Tensor:
        """Return the votes ``(..., I, J, E)`` of children ``(..., I, D)``."""
        return self.votes_of(poses.unsqueeze(-2)) if self.matrix else vote(poses, self.weight)

    def votes_of(self, children: Tensor) -> Tensor:
        """Return the votes of matrices that differ from parent to parent, ``(..., I, J, D)``; see `dual_votes`."""
        return dual_votes(children, self.pose_weight, self.appearance_weight, self.bias)
