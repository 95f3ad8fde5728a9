"""Self-routing capsule networks, Hahn, Pyeon & Kim, NeurIPS 2019: two capsule layers on ResNet-20, for CIFAR-10.

All votes are formed, and weighted by broadcasting, as in the released code, whose last layer has no poses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plain_forms.residual import conv, trunk
from plain_forms.windows import windows


class SelfRoutingCapsules(nn.Module):
    """A layer whose children choose their parents by themselves.

    Args:
        num_in: types of children, A.
        num_out: types of parents, J.
        kernel, stride, padding: of the windows.
        dim: of the poses.
        poses: whether parents have poses.
    """

    def __init__(
        self, num_in: int, num_out: int, kernel: int, stride: int, padding: int, dim: int = 16, poses: bool = True
    ) -> None:
        super().__init__()
        self.window = kernel, stride, padding
        num_in *= kernel**2
        self.poses = poses
        if poses:
            self.weight = nn.Parameter((2 / dim) ** 0.5 * torch.randn(num_in, num_out, dim, dim))
        self.route_weight = nn.Parameter(torch.zeros(num_in, num_out, dim))
        self.route_bias = nn.Parameter(torch.zeros(num_in, num_out))
        if poses:
            self.norm = nn.BatchNorm1d(num_out * dim)

    def forward(self, poses: Tensor, activations: Tensor) -> tuple[Tensor, ...]:
        """Return parents ``(B, y, x, J, D)``, if they have poses, and ``(B, y, x, J)``."""
        poses, activations = windows(poses, *self.window), windows(activations, *self.window)
        logits = torch.einsum("...id,ijd->...ij", poses, self.route_weight) + self.route_bias
        received = activations.unsqueeze(-1) * logits.softmax(dim=-1)  # (B, y, x, I, J)
        total = received.sum(dim=3)
        parents = total / activations.sum(dim=3, keepdim=True)
        if not self.poses:
            return (parents,)
        votes = torch.einsum("...id,ijed->...ije", poses, self.weight)
        means = (received.unsqueeze(-1) * votes).sum(dim=3) / total.unsqueeze(-1)
        return self.norm(means.flatten(0, 2).flatten(1)).view(means.shape), parents


class SelfRoutingNet(nn.Module):
    """Residual trunk, primary capsules, one layer of convolutional capsules, class capsules."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk(16, (16, 32, 64), (3, 3, 3))
        self.poses, self.pose_norm = conv(64, 32 * 16), nn.BatchNorm2d(32 * 16)
        self.scores, self.score_norm = conv(64, 32), nn.BatchNorm2d(32)
        self.layers = nn.ModuleList(
            [SelfRoutingCapsules(32, 32, 3, 2, 1), SelfRoutingCapsules(32, 10, 4, 1, 0, poses=False)]
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the activations ``(B, 10)`` of images ``(B, 3, 32, 32)``."""
        features = self.trunk(images)
        poses = self.pose_norm(self.poses(features)).unflatten(1, (32, 16)).permute(0, 3, 4, 1, 2)
        activations = torch.sigmoid(self.score_norm(self.scores(features))).permute(0, 2, 3, 1)
        (activations,) = self.layers[1](*self.layers[0](poses, activations))
        return activations.flatten(1)
