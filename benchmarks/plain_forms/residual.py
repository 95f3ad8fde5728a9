"""Residual convolutions, He, Zhang, Ren & Sun, CVPR 2016, below the capsules of several papers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def conv(channels: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias whose maps are as large as its input, or a ``stride``-th."""
    return nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)


class Block(nn.Module):
    """Two convolutions, added to their input; a 1x1 convolution takes its place where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(channels, out, 3, stride), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = conv(out, out), nn.BatchNorm2d(out)
        same = stride == 1 and channels == out
        self.shortcut = nn.Sequential() if same else nn.Sequential(conv(channels, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same or half the size."""
        after = torch.relu(self.norm1(self.conv1(maps)))
        return torch.relu(self.norm2(self.conv2(after)) + self.shortcut(maps))


def trunk(stem: int, planes: Sequence[int], blocks: Sequence[int]) -> nn.Sequential:
    """Return a convolution and stages of blocks, of which all but the first halve the map."""
    layers: list[nn.Module] = [conv(3, stem), nn.BatchNorm2d(stem), nn.ReLU()]
    width = stem
    for stage, (out, count) in enumerate(zip(planes, blocks, strict=True)):
        for number in range(count):
            layers.append(Block(width, out, 2 if stage and not number else 1))
            width = out
    return nn.Sequential(*layers)
