"""Matrix capsules with EM routing, Hinton, Sabour & Frosst, ICLR 2018: the network for smallNORB, by Procedure 1.

Sums over children are sums of broadcast products, as the released code has them; nothing is divided by a standard
deviation, and logarithms of densities are compared, without which the procedure is not stable.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plain_forms.windows import add_coordinates, matrix_votes, softmax_over_positions, windows

ITERATIONS = 3
MIN_VARIANCE = 5e-4
FINAL_LAMBDA = 0.01


class EMCapsules(nn.Module):
    """A layer of matrix capsules.

    Args:
        num_in: types of children, A.
        num_out: types of parents, J.
        kernel, stride: of the windows.
        classes: whether it is the last layer: matrices shared over positions, coordinates added, and a single window.
    """

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int = 1, classes: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride, self.classes = kernel, stride, classes
        matrices = num_in if classes else num_in * kernel**2
        self.weight = nn.Parameter(0.5 * torch.randn(matrices, num_out, 4, 4))
        self.beta_u = nn.Parameter(torch.zeros(num_out))
        self.beta_a = nn.Parameter(torch.zeros(num_out))

    def forward(self, poses: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
        """Return parents ``(B, y, x, J, ...)`` of poses ``(B, H, W, A, 16)`` and activations ``(B, H, W, A)``."""
        poses, activations = (windows(maps, self.kernel, self.stride) for maps in (poses, activations))
        weight = self.weight.repeat(self.kernel**2, 1, 1, 1) if self.classes else self.weight
        votes = matrix_votes(poses, weight)  # (B, y, x, I, J, 16)
        if self.classes:
            votes = add_coordinates(votes, self.kernel)
        return self.route(votes, activations)

    def route(self, votes: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
        """Return parents of votes ``(B, y, x, I, J, 16)`` and activations ``(B, y, x, I)``."""
        log_densities = torch.zeros_like(votes[..., 0])
        for t in range(ITERATIONS):
            couplings = self.compete(log_densities)
            weights = couplings * activations.unsqueeze(-1)  # (B, y, x, I, J)
            mass = weights.sum(dim=3, keepdim=True)
            shares = (weights / mass).unsqueeze(-1)
            means = (shares * votes).sum(dim=3, keepdim=True)
            variance = (shares * (votes - means).square()).sum(dim=3, keepdim=True) + MIN_VARIANCE
            costs = (self.beta_u.unsqueeze(-1) + variance.log() / 2) * mass.unsqueeze(-1)
            logits = FINAL_LAMBDA * (1 - 0.95 ** (t + 1)) * (self.beta_a - costs.sum(dim=-1))  # (B, y, x, 1, J)
            if t < ITERATIONS - 1:
                gaussians = -((votes - means).square() / variance + variance.log()).sum(dim=-1) / 2
                log_densities = F.logsigmoid(logits) + gaussians
        return means.squeeze(3), torch.sigmoid(logits).squeeze(3)

    def compete(self, log_densities: Tensor) -> Tensor:
        """Return the couplings, a softmax over all parents that share a child."""
        if self.classes:
            return log_densities.softmax(dim=-1)
        return softmax_over_positions(log_densities, self.kernel, self.stride)


class EMNet(nn.Module):
    """Convolution, primary capsules, two layers of convolutional capsules and class capsules."""

    def __init__(self, channels: int = 32, types: tuple[int, int, int] = (32, 32, 32), num_classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, channels, 5, stride=2)
        self.poses = nn.Conv2d(channels, types[0] * 16, 1)
        self.activations = nn.Conv2d(channels, types[0], 1)
        self.layers = nn.ModuleList(
            [
                EMCapsules(types[0], types[1], 3, stride=2),
                EMCapsules(types[1], types[2], 3),
                EMCapsules(types[2], num_classes, 4, classes=True),
            ]
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the activations ``(B, classes)`` of images ``(B, 2, 32, 32)``."""
        features = torch.relu(self.conv(images))
        poses = self.poses(features).unflatten(1, (-1, 16)).permute(0, 3, 4, 1, 2)
        activations = torch.sigmoid(self.activations(features)).permute(0, 2, 3, 1)
        for layer in self.layers:
            poses, activations = layer(poses, activations)
        return activations.flatten(1)
