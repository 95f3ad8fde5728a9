"""The yardstick: a training step of the original capsule network in plain, careful PyTorch.

Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NIPS 2017 (arXiv 1710.09829): the MNIST network with its
decoder, three routing iterations with the gradient through all of them, margin and reconstruction loss as the released
code weighs them, Adam. It uses nothing but torch: votes by einsum, autograd, contiguous float32. It avoids the
costs that are easily avoided (no loop over capsules, no copy of the weights for each sample), and uses no tricks.
"""

from __future__ import annotations

from typing import Any

import torch
from measure import Step, Workload
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

IN_SHAPE, NUM_CLASSES = (1, 28, 28), 10


def squash(s: Tensor) -> Tensor:
    """Return equation 1, along the last axis."""
    length: Tensor = torch.linalg.vector_norm(s, dim=-1, keepdim=True)
    return s * (length / (1 + length.square()))


def route(votes: Tensor, iterations: int = 3) -> Tensor:
    """Return the parents ``(B, J, E)`` of votes ``(B, I, J, E)`` by procedure 1."""
    logits = votes.new_zeros(votes.shape[:3])
    for iteration in range(iterations):
        parents = squash(torch.einsum("bij,bije->bje", logits.softmax(dim=2), votes))
        if iteration < iterations - 1:
            logits = logits + torch.einsum("bije,bje->bij", votes, parents)
    return parents


class PlainCapsNet(nn.Module):
    """Two convolutions, 1152 primary capsules of 8 dimensions, 10 class capsules of 16, three dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 256, 9)
        self.primary = nn.Conv2d(256, 256, 9, stride=2)
        self.weight = nn.Parameter(0.1 * torch.randn(1152, NUM_CLASSES, 16, 8))
        self.decoder = nn.Sequential(
            nn.Linear(NUM_CLASSES * 16, 512), nn.ReLU(), nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 784)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the class capsules ``(B, J, E)`` of images ``(B, 1, 28, 28)``."""
        maps = self.primary(torch.relu(self.conv(images)))  # (B, 32 * 8, 6, 6)
        poses = squash(maps.unflatten(1, (32, 8)).flatten(3).transpose(2, 3).flatten(1, 2))  # (B, I, D)
        return route(torch.einsum("bid,ijed->bije", poses, self.weight))

    def reconstruct(self, capsules: Tensor, present: Tensor) -> Tensor:
        """Return pictures ``(B, 784)`` from the capsules for which ``present (B, J)`` is 1."""
        return torch.sigmoid(self.decoder((capsules * present.unsqueeze(2)).flatten(1)))


def training_loss(net: PlainCapsNet, images: Tensor, labels: Tensor) -> Tensor:
    """Return half the mean margin loss plus 0.0005 times the squared error summed over pixels."""
    capsules = net(images)
    present = F.one_hot(labels, NUM_CLASSES).to(capsules.dtype)
    lengths = torch.linalg.vector_norm(capsules, dim=2)
    margin = present * F.relu(0.9 - lengths).square() + 0.5 * (1 - present) * F.relu(lengths - 0.1).square()
    error = (net.reconstruct(capsules, present) - images.flatten(1)).square().sum(dim=1)
    return margin.mean() / 2 + 0.0005 * error.mean()


class PlainStep(Workload):
    """A training step of the yardstick on random images.

    Args:
        batch_size: images in a step.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.parameters = 0

    @override
    def build(self, device: torch.device) -> Step:
        net = PlainCapsNet().to(device)
        self.parameters = sum(p.numel() for p in net.parameters())
        optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
        images = torch.rand(self.batch_size, *IN_SHAPE, device=device)
        labels = torch.randint(NUM_CLASSES, (self.batch_size,), device=device)

        def step() -> Tensor:
            optimizer.zero_grad()
            loss = training_loss(net, images, labels)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    @override
    def facts(self) -> dict[str, Any]:
        return {"parameters": self.parameters}
