"""Residual convolutions, and an encoder that turns their maps into capsules.

He, Zhang, Ren & Sun, Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv 1512.03385), section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import MapEncoder
from capsule_lightning.errors import require, require_one_of

PoseNorm = Literal["batch", "layer"]
Activation = Literal["sigmoid", "one"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization, added to their input: ``relu(x + f(x))``.

    If the shape changes, x goes through a 1x1 convolution with batch normalization (option B of the paper).

    Args:
        in_channels: channels of the input.
        channels: filters of both convolutions.
        stride: stride of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    @override
    def forward(self, maps: Tensor) -> Tensor:
        """Return maps ``(B, channels, ceil(H / stride), ceil(W / stride))`` of maps ``(B, C, H, W)``."""
        return F.relu(self.layers(maps) + self.shortcut(maps))


class ResidualTrunk(nn.Module):
    """A 3x3 convolution with batch normalization and ReLU, then stages of residual blocks.

    Convolutions have no bias; their weights are initialized as in He et al. 2015 (arXiv 1502.01852).

    Args:
        in_channels: channels of the images.
        stem: filters of the first convolution.
        planes: filters of each stage.
        blocks: number of residual blocks in each stage.
        strides: stride of the first block of each stage.

    Attributes:
        channels: channels of the output, the last of ``planes``.
        stride: pixels of the image from one place of the output to the next.

    Raises:
        InputError: a size is below 1, or the lists differ in length.
    """

    def __init__(
        self, in_channels: int, stem: int, planes: Sequence[int], blocks: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        stages = f"planes={list(planes)}, blocks={list(blocks)}, strides={list(strides)}"
        require(
            len(planes) == len(blocks) == len(strides) >= 1,
            f"{stages}: expected one of each for every stage of residual blocks",
        )
        require(min(stem, *planes, *blocks, *strides) >= 1, f"stem={stem}, {stages}: expected at least 1 each")
        self.channels, self.stride = planes[-1], prod(strides)
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, stem, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
        ]
        width = stem
        for following, count, stride in zip(planes, blocks, strides, strict=True):
            for number in range(count):
                layers.append(ResidualBlock(width, following, 1 if number else stride))
                width = following
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return maps ``(B, channels, ceil(H / stride), ceil(W / stride))`` of images ``(B, C, H, W)``.

        On a CPU, channels are innermost in their memory, which spares the convolutions a change of order each.
        """
        if images.device.type == "cpu":
            images = images.contiguous(memory_format=torch.channels_last)
        maps: Tensor = self.layers(images)
        return maps


class ResNetEncoder(MapEncoder):
    """A residual trunk, then one convolution for the poses of the capsules and one for their activations.

    The defaults are those of self-routing (Hahn, Pyeon & Kim, NeurIPS 2019) except for the shortcuts, which convolve
    here and pad with zeros there: the trunk of ResNet-20, 3x3 convolutions, poses normalized over the batch, and
    activations that are the sigmoid of normalized maps. 32x32 color images give 8x8 places with 32 capsules each, with
    586,256 parameters.

    The sizes of inverted dot-product attention (Tsai, Srivastava, Goh & Salakhutdinov, ICLR 2020, arXiv 2002.04764) are
    ``stem`` 64, ``planes`` 64, 128, ``blocks`` 3, 4, ``strides`` 1, 2, ``primary_kernel_size`` 1, ``pose_norm: layer``
    and ``activation: one``: 16x16 places with 32 capsules each, with 1,405,792 parameters.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        stem, planes, blocks, strides: see `ResidualTrunk`.
        num_types: capsules at each place, A.
        dim: dimensions of their poses, D.
        primary_kernel_size: kernel size of the convolutions to poses and activations, which have no bias and pad with
            zeros.
        pose_norm: ``batch`` normalizes each coordinate of each type over batch and places; ``layer`` normalizes the
            coordinates of each capsule among themselves, with a scale and a shift for each coordinate, shared by all
            types.
        activation: ``sigmoid`` of a convolution with batch normalization, or ``one`` if every capsule is fully active.

    Raises:
        InputError: sizes are below 1 or do not fit each other, or a word is unknown.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        *,
        stem: int = 16,
        planes: Sequence[int] = (16, 32, 64),
        blocks: Sequence[int] = (3, 3, 3),
        strides: Sequence[int] = (1, 2, 2),
        num_types: int = 32,
        dim: int = 16,
        primary_kernel_size: int = 3,
        pose_norm: PoseNorm = "batch",
        activation: Activation = "sigmoid",
    ) -> None:
        sizes = {"num_types": num_types, "dim": dim, "primary_kernel_size": primary_kernel_size}
        for name, size in sizes.items():
            require(size >= 1, f"ResNetEncoder: {name}={size}: expected at least 1")
        require_one_of("ResNetEncoder: pose_norm", pose_norm, get_args(PoseNorm))
        require_one_of("ResNetEncoder: activation", activation, get_args(Activation))
        trunk = ResidualTrunk(in_shape[0], stem, planes, blocks, strides)
        rows, columns = (-(-n // trunk.stride) for n in in_shape[-2:])
        super().__init__(in_shape, (rows, columns), num_types, dim)
        self.trunk = trunk
        channels, kernel = trunk.channels, primary_kernel_size
        self.poses = nn.Conv2d(channels, num_types * dim, kernel, padding="same", bias=False)
        batch, layer = nn.BatchNorm2d(num_types * dim), nn.LayerNorm(dim)
        self.map_norm: nn.Module = batch if pose_norm == "batch" else nn.Identity()
        self.capsule_norm: nn.Module = layer if pose_norm == "layer" else nn.Identity()
        self.scores: nn.Conv2d | None = None
        if activation == "sigmoid":
            self.scores = nn.Conv2d(channels, num_types, kernel, padding="same", bias=False)
            self.score_norm = nn.BatchNorm2d(num_types)

    @override
    def maps(self, images: Tensor) -> Capsules:
        features = self.trunk(images)
        maps = self.map_norm(_widen(self.poses(features)))  # (B, A * D, rows, columns)
        poses = self.capsule_norm(maps.unflatten(1, (self.num_types, self.dim)).permute(0, 3, 4, 1, 2))
        if self.scores is None:
            return Capsules(poses, poses.new_ones(poses.shape[:-1]))
        scores = self.score_norm(_widen(self.scores(features)))  # (B, A, rows, columns)
        return Capsules(poses, scores.sigmoid().permute(0, 2, 3, 1))


def _widen(maps: Tensor) -> Tensor:
    """Return maps in float32 or wider, the precision in which capsules are normalized."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))
