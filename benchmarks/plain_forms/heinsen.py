"""Heinsen's routings, An Algorithm for Routing Capsules in All Domains, 2019, and Routing Vectors in Sequences, 2022.

Both contract by einsum, as the released code does. That of 2022 never forms votes, by its author's design.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5


class MatrixLayer(nn.Module):
    """The routing of 2019 for n x n matrices, three iterations.

    Args:
        num_in: children, I.
        num_out: parents, J.
        side: n.
    """

    def __init__(self, num_in: int, num_out: int, side: int = 4) -> None:
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(torch.randn(num_in, num_out, side, side) / side)
        self.bias = nn.Parameter(torch.zeros(num_in, num_out, side * side))
        self.use = nn.Parameter(torch.zeros(num_in, num_out))
        self.ignore = nn.Parameter(torch.zeros(num_in, num_out))

    def forward(self, poses: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
        """Return parents ``(B, J, n * n)`` and ``(B, J)`` of children ``(B, I, n * n)`` and ``(B, I)`` in [0, 1]."""
        matrices = poses.unflatten(-1, (self.side, self.side))
        votes = torch.einsum("bicd,ijdh->bijch", matrices, self.weight) + self.bias.view(*self.weight.shape)
        couplings = torch.full_like(votes[..., 0, 0], 1 / votes.shape[2])
        for iteration in range(3):
            used = activations.unsqueeze(-1) * couplings
            ignored = activations.unsqueeze(-1) - used
            scores = (self.use * used).sum(dim=1) - (self.ignore * ignored).sum(dim=1)
            shares = 1 / (used.sum(dim=1) + EPSILON)
            means = torch.einsum("bij,bijch,bj->bjch", used, votes, shares)
            if iteration < 2:  # the last variances are not used here
                squares = (votes - means.unsqueeze(1)).square()
                variances = torch.einsum("bij,bijch,bj->bjch", used, squares, shares) + EPSILON
                exponents = torch.einsum("bijch,bjch->bij", squares, 1 / (2 * variances))
                log_density = -exponents - variances.sqrt().log().sum(dim=(-2, -1)).unsqueeze(1)
                couplings = (F.logsigmoid(scores).unsqueeze(1) + log_density).softmax(dim=-1)
        return means.flatten(2), torch.sigmoid(scores)


class VectorLayer(nn.Module):
    """The routing of 2022, two iterations.

    Args:
        num_in, dim_in: children and their dimensions, I and D.
        num_out, dim_out: parents and theirs, J and E.
    """

    def __init__(self, num_in: int, dim_in: int, num_out: int, dim_out: int) -> None:
        super().__init__()

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) / sqrt(shape[-1]))

        self.score_weight, self.score_bias = normal(num_in, dim_in), nn.Parameter(torch.zeros(num_in))
        self.vote_in, self.vote_out = normal(num_out, dim_in), normal(dim_in, dim_out)
        self.vote_bias = nn.Parameter(torch.zeros(num_out, dim_out))
        self.use, self.ignore = normal(num_in, num_out), normal(num_in, num_out)
        self.predict_in, self.predict_out = normal(dim_out, dim_in), normal(num_out, dim_in)
        self.predict_bias = nn.Parameter(torch.zeros(num_out, dim_in))
        self.scale, self.shift = normal(num_in, num_out), nn.Parameter(torch.zeros(num_in, num_out))

    def forward(self, poses: Tensor, activations: Tensor) -> tuple[Tensor]:
        """Return parents ``(B, J, E)`` of children ``(B, I, D)``, whose activations have no say."""
        num_in, dim_out = poses.shape[1], self.vote_out.shape[1]
        scaled = poses / sqrt(num_in)
        relevance = torch.sigmoid(torch.einsum("bid,id->bi", scaled, self.score_weight) + self.score_bias)
        relevance = relevance.unsqueeze(-1)
        couplings = torch.full_like(relevance, 1 / len(self.vote_in)).expand(-1, -1, len(self.vote_in))
        for iteration in range(2):
            used = relevance * couplings
            ignored = relevance - used
            worth = self.use * used - self.ignore * ignored  # (B, I, J)
            sums = torch.einsum("bij,bid->bjd", worth, scaled)
            parents = torch.einsum("bjd,jd,de->bje", sums, self.vote_in, self.vote_out)
            parents = F.layer_norm(parents + worth.sum(dim=1).unsqueeze(-1) * self.vote_bias, (dim_out,))
            if iteration == 0:
                predicted = torch.einsum("bje,ed,jd->bjd", parents, self.predict_in, self.predict_out)
                likeness = torch.einsum("bid,bjd->bij", poses, predicted + self.predict_bias)
                couplings = F.logsigmoid(likeness * self.scale + self.shift).softmax(dim=-1)
        return (parents,)
