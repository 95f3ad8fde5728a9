"""Efficient-CapsNet, Mazzia, Salvetti & Chiaberge, 2021, for MNIST: encoder and class capsules, without the decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def squash(s: Tensor) -> Tensor:
    """Return ``(1 - exp(-|s|)) s / |s|`` along the last axis."""
    length = torch.linalg.vector_norm(s, dim=-1, keepdim=True)
    return (1 - torch.exp(-length)) * (s / (length + 1e-20))


class SelfAttention(nn.Module):
    """Self-attention routing, with a prior that is added to the couplings."""

    def __init__(self, num_in: int, dim_in: int, num_out: int, dim_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(num_in, num_out, dim_out, dim_in))
        self.prior = nn.Parameter(torch.zeros(num_in, num_out))

    def forward(self, poses: Tensor, activations: Tensor | None = None) -> tuple[Tensor]:
        """Return parents ``(B, J, E)`` of children ``(B, I, D)``, whose activations have no say."""
        votes = torch.einsum("bid,ijed->bije", poses, self.weight)
        agreement = torch.einsum("bije,bje->bij", votes, votes.sum(dim=1)) / votes.shape[-1] ** 0.5
        weights = agreement.softmax(dim=2) + self.prior
        return (squash(torch.einsum("bij,bije->bje", weights, votes)),)


class EfficientCapsNet(nn.Module):
    """Four normalized convolutions, a depthwise one to 16 capsules of 8 dimensions, self-attention routing."""

    def __init__(self, num_classes: int = 10, strides: tuple[int, int, int, int] = (1, 1, 1, 2)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side = 28
        for channels, out, kernel, stride in zip(
            (1, 32, 64, 64), (32, 64, 64, 128), (5, 3, 3, 3), strides, strict=True
        ):
            norm = nn.BatchNorm2d(out, eps=1e-3, momentum=0.01)
            layers += [nn.Conv2d(channels, out, kernel, stride), nn.ReLU(), norm]
            side = (side - kernel) // stride + 1
        self.features = nn.Sequential(*layers)
        self.primary = nn.Conv2d(128, 128, side, groups=128)
        self.routing = SelfAttention(16, 8, num_classes, 16)

    def forward(self, images: Tensor) -> Tensor:
        """Return the lengths ``(B, classes)`` of the class capsules of images ``(B, 1, 28, 28)``."""
        poses = squash(self.primary(self.features(images)).view(-1, 16, 8))
        return torch.linalg.vector_norm(self.routing(poses)[0], dim=-1)
