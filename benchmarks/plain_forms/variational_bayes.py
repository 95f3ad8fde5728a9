"""Capsule routing via variational Bayes, De Sousa Ribeiro, Leontidis & Kollias, AAAI 2020: the network {64, 8, 16, 16}.

Sums over children are sums of broadcast products, densities are exponentials that are added up over the windows by a
transposed convolution with an identity, and no sum counts as less than 1e-11, as in the released code.
"""

from __future__ import annotations

from math import e, log, pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plain_forms.windows import add_coordinates, matrix_votes, windows

ITERATIONS = 3
DIM = 16
FLOOR = 1e-11


class BayesCapsules(nn.Module):
    """A layer of matrix capsules whose parents are posteriors over Gaussians.

    Args:
        num_in: types of children, A.
        num_out: types of parents, J.
        kernel, stride: of the windows.
        classes: whether it is the last layer: matrices shared over positions, coordinates added, and a single window.
    """

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int = 1, classes: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride, self.classes, self.num_in = kernel, stride, classes, num_in
        matrices = num_in if classes else num_in * kernel**2
        self.weight = nn.Parameter(0.05 * torch.randn(matrices, num_out, 4, 4))
        self.beta_u = nn.Parameter(torch.zeros(num_out))
        self.beta_a = nn.Parameter(torch.zeros(num_out))
        self.pose_norm = nn.BatchNorm3d(num_out, affine=False)
        self.score_norm = nn.BatchNorm2d(num_out, affine=False)

    def forward(self, poses: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
        """Return parents ``(B, y, x, J, ...)`` of poses ``(B, H, W, A, 16)`` and activations ``(B, H, W, A)``."""
        poses, activations = (windows(maps, self.kernel, self.stride) for maps in (poses, activations))
        weight = self.weight.repeat(self.kernel**2, 1, 1, 1) if self.classes else self.weight
        votes = matrix_votes(poses, weight)  # (B, y, x, I, J, 16)
        if self.classes:
            votes = add_coordinates(votes, self.kernel)
        means, scores = self.route(votes, activations)
        means = self.pose_norm(means.permute(0, 3, 4, 1, 2)).permute(0, 3, 4, 1, 2)
        scores = self.score_norm(scores.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return means, torch.sigmoid(scores)

    def route(self, votes: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
        """Return means ``(B, y, x, J, 16)`` and scores ``(B, y, x, J)`` of votes ``(B, y, x, I, J, 16)``."""
        couplings = torch.full_like(votes[..., 0], 1 / votes.shape[-2])
        for t in range(ITERATIONS):
            weights = couplings * activations.unsqueeze(-1)  # (B, y, x, I, J)
            mass = weights.sum(dim=3, keepdim=True)  # R_j
            alpha, kappa, nu = 1 + mass, 1 + mass, DIM + 1 + mass
            centers = (weights.unsqueeze(-1) * votes).sum(dim=3, keepdim=True) / mass.unsqueeze(-1)
            means = (mass / kappa).unsqueeze(-1) * centers
            scatter = (weights.unsqueeze(-1) * (votes - centers).square()).sum(dim=3, keepdim=True)
            inverse_psi = 1 + scatter + (mass / kappa).unsqueeze(-1) * centers.square()
            halves = (nu.unsqueeze(-1) - torch.arange(DIM, device=votes.device)) / 2
            log_precision = torch.digamma(halves).sum(dim=-1) + DIM * log(2) - inverse_psi.log().sum(dim=-1)
            log_share = torch.digamma(alpha) - torch.digamma(alpha.sum(dim=-1, keepdim=True))
            if t < ITERATIONS - 1:
                distances = ((votes - means).square() / inverse_psi).sum(dim=-1)
                log_density = (log_precision - DIM * log(2 * pi) - DIM / kappa - nu * distances) / 2
                couplings = self.compete(torch.exp(log_share + log_density))
        entropy = DIM * log(2 * pi * e) / 2 - log_precision / 2
        scores = self.beta_a - (log_share.exp() * entropy + self.beta_u)
        return means.squeeze(3), scores.squeeze(3)

    def compete(self, densities: Tensor) -> Tensor:
        """Return the couplings: densities ``(B, y, x, I, J)`` as shares of their sum over all parents of a child."""
        sums = densities.sum(dim=-1)
        if not self.classes:
            batch, rows, columns, _ = sums.shape
            places = sums.view(batch, rows, columns, self.kernel**2, -1).permute(0, 4, 3, 1, 2)
            identity = torch.eye(self.kernel**2, dtype=sums.dtype, device=sums.device)
            identity = identity.view(-1, 1, self.kernel, self.kernel)
            total = F.conv_transpose2d(places.flatten(0, 1), identity, stride=self.stride)
            total = total.view(batch, -1, *total.shape[2:]).movedim(1, -1)
            sums = windows(total, self.kernel, self.stride)
        return densities / sums.clamp(min=FLOOR).unsqueeze(-1)


class BayesNet(nn.Module):
    """Convolution, primary capsules, two layers of convolutional capsules and class capsules; normalized."""

    def __init__(self, channels: int = 64, types: tuple[int, int, int] = (8, 16, 16), num_classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, channels, 5, stride=2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.poses = nn.Conv2d(channels, types[0] * 16, 1, bias=False)
        self.pose_norm = nn.BatchNorm3d(types[0])
        self.activations = nn.Sequential(nn.Conv2d(channels, types[0], 1, bias=False), nn.BatchNorm2d(types[0]))
        self.layers = nn.ModuleList(
            [
                BayesCapsules(types[0], types[1], 3, stride=2),
                BayesCapsules(types[1], types[2], 3),
                BayesCapsules(types[2], num_classes, 4, classes=True),
            ]
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the activations ``(B, classes)`` of images ``(B, 2, 32, 32)``."""
        features = self.features(images)
        poses = self.pose_norm(self.poses(features).unflatten(1, (-1, 16))).permute(0, 3, 4, 1, 2)
        activations = torch.sigmoid(self.activations(features)).permute(0, 2, 3, 1)
        for layer in self.layers:
            poses, activations = layer(poses, activations)
        return activations.flatten(1)
