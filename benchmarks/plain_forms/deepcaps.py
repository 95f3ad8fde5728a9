"""DeepCaps, Rajasegaran et al., CVPR 2019, on images of 64x64: encoder and class capsules, without the decoder.

The votes of the routed cell are an ordinary convolution of one child's map at a time, which is what the released 3-D
convolution computes, but for the order of the numbers that it reads; all votes are kept, and contracted by einsum.
"""

from __future__ import annotations

import torch
from plain import squash
from torch import Tensor, nn
from torch.nn import functional as F

TYPES = 32
ITERATIONS = 3


class ConvCaps(nn.Module):
    """A convolution without bias, after which each capsule is squashed."""

    def __init__(self, channels: int, dim: int, stride: int = 1) -> None:
        super().__init__()
        self.dim, self.stride = dim, stride
        self.conv = nn.Conv2d(channels, TYPES * dim, 3, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps ``(B, types * D, H / stride, W / stride)`` of maps ``(B, C, H, W)``."""
        before = 1 if self.stride == 1 else 0  # even sizes need one row and column more at the end
        maps = self.conv(F.pad(maps, (before, 1, before, 1)))
        return squash(maps.unflatten(1, (TYPES, self.dim)).movedim(2, -1)).movedim(-1, 2).flatten(1, 2)


class RoutedCaps(nn.Module):
    """The routed layer: a child divides itself among the parents of all types and places together."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.randn(TYPES, dim, dim, 3, 3) / (3 * dim**0.5))
        self.bias = nn.Parameter(torch.full((TYPES, dim), 0.1))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the shape of maps ``(B, types * D, H, W)``."""
        children = maps.unflatten(1, (TYPES, self.dim))
        votes = F.conv2d(children.flatten(0, 1), self.weight.flatten(0, 1), padding=1)
        votes = votes.view(len(maps), TYPES, TYPES, self.dim, *maps.shape[2:])  # (B, I, J, E, H, W)
        logits = torch.zeros_like(votes[:, :, :, 0])
        for iteration in range(ITERATIONS):
            couplings = logits.flatten(2).softmax(dim=2).view_as(logits)
            s = torch.einsum("bijhw,bijehw->bjehw", couplings, votes) + self.bias[..., None, None]
            parents = squash(s.flatten(2)).view_as(s)
            if iteration < ITERATIONS - 1:
                logits = logits + torch.einsum("bijehw,bjehw->bijhw", votes, parents)
        return parents.flatten(1, 2)


class Cell(nn.Module):
    """A convolution that halves the map, then two more in a row beside one layer past them."""

    def __init__(self, channels: int, dim: int, routed: bool = False) -> None:
        super().__init__()
        self.down = ConvCaps(channels, dim, stride=2)
        self.past = RoutedCaps(dim) if routed else ConvCaps(TYPES * dim, dim)
        self.through = nn.Sequential(ConvCaps(TYPES * dim, dim), ConvCaps(TYPES * dim, dim))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps ``(B, types * D, H / 2, W / 2)``."""
        maps = self.down(maps)
        return self.past(maps) + self.through(maps)


class ClassCaps(nn.Module):
    """Class capsules of 32 dimensions by dynamic routing with a bias."""

    def __init__(self, num_in: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(num_in, num_classes, 32, 8))
        self.bias = nn.Parameter(torch.full((num_classes, 32), 0.1))

    def forward(self, poses: Tensor) -> Tensor:
        """Return parents ``(B, J, 32)`` of children ``(B, I, 8)``."""
        votes = torch.einsum("bid,ijed->bije", poses, self.weight)
        logits = torch.zeros_like(votes[..., 0])
        for iteration in range(ITERATIONS):
            parents = squash(torch.einsum("bij,bije->bje", logits.softmax(dim=2), votes) + self.bias)
            if iteration < ITERATIONS - 1:
                logits = logits + torch.einsum("bije,bje->bij", votes, parents)
        return parents


class DeepCaps(nn.Module):
    """A convolution, four cells and class capsules."""

    def __init__(self, in_shape: tuple[int, int, int] = (3, 64, 64), num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_shape[0], 128, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(128, eps=1e-3, momentum=0.01)
        )
        self.cells = nn.ModuleList([Cell(128, 4), Cell(128, 8), Cell(256, 8), Cell(256, 8, routed=True)])
        num_in = TYPES * sum((in_shape[1] // n) * (in_shape[2] // n) for n in (8, 16))
        self.classes = ClassCaps(num_in, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the lengths ``(B, classes)`` of the class capsules of images ``(B, C, H, W)``."""
        maps, outputs = self.features(images), []
        for cell in self.cells:
            maps = cell(maps)
            outputs.append(maps.unflatten(1, (TYPES, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3))
        return torch.linalg.vector_norm(self.classes(torch.cat(outputs[2:], dim=1)), dim=-1)
