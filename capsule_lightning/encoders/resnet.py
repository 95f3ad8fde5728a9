"""Residual convolutions, and the encoder that turns their maps into capsules.

He, Zhang, Ren & Sun, Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv 1512.03385), section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import MapEncoder
from capsule_lightning.errors import InputError

PoseNorm = Literal["batch", "layer"]
Activation = Literal["sigmoid", "one"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization, added to what came in: ``relu(x + f(x))``.

    Where the shape changes, x goes through a 1x1 convolution with batch normalization (option B of the paper).

    Args:
        in_channels: of the maps that come in.
        channels: of both convolutions.
        stride: of the first.
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

    def forward(self, maps: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, channels, ceil(H / stride), ceil(W / stride))``."""
        return F.relu(self.layers(maps) + self.shortcut(maps))


class ResidualTrunk(nn.Module):
    """A 3x3 convolution with batch normalization and ReLU, then stages of residual blocks.

    Convolutions have no bias and start as in He et al. 2015 (arXiv 1502.01852).

    Args:
        in_channels: of the images.
        stem: filters of the first convolution.
        planes: filters of each stage.
        blocks: residual blocks of each stage.
        strides: of the first block of each stage.

    Attributes:
        channels: of the maps that come out, the last of ``planes``.
        stride: pixels from one place of those maps to the next.

    Raises:
        InputError: a size below 1, or lists of different lengths.
    """

    def __init__(
        self, in_channels: int, stem: int, planes: Sequence[int], blocks: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        if not len(planes) == len(blocks) == len(strides) >= 1:
            raise InputError(
                f"planes={list(planes)}, blocks={list(blocks)}, strides={list(strides)}: expected one of each for "
                "every stage of residual blocks"
            )
        if min(stem, *planes, *blocks, *strides) < 1:
            raise InputError(
                f"stem={stem}, planes={list(planes)}, blocks={list(blocks)}, strides={list(strides)}: "
                "expected at least 1"
            )
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

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, channels, ceil(H / stride), ceil(W / stride))``."""
        maps: Tensor = self.layers(images)
        return maps


class ResNetEncoder(MapEncoder):
    """A residual trunk, then one convolution for the poses of the capsules and one for their activations.

    The defaults are those of self-routing (Hahn, Pyeon & Kim, NeurIPS 2019) but for its shortcuts, which pad with zeros
    where ours convolve: the trunk of ResNet-20, 3x3 convolutions, poses normalized over the batch, activations the
    sigmoid of normalized maps. 32x32 color images give 8x8 places of 32 capsules, from 586,256 parameters.

    Those of inverted dot-product attention (Tsai, Srivastava, Goh & Salakhutdinov, ICLR 2020, arXiv 2002.04764) are
    ``stem`` 64, ``planes`` 64, 128, ``blocks`` 3, 4, ``strides`` 1, 2, ``primary_kernel_size`` 1, ``pose_norm: layer``
    and ``activation: one``: 16x16 places of 32 capsules, from 1,405,792 parameters.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        stem, planes, blocks, strides: see `ResidualTrunk`.
        num_types: capsules at each place, A.
        dim: dimensions of their poses, D.
        primary_kernel_size: of the convolutions to poses and activations, which have no bias and pad with zeros.
        pose_norm: ``batch`` normalizes each coordinate of each type over batch and places; ``layer`` the coordinates of
            each capsule among themselves, with a scale and a shift for each coordinate that all types share.
        activation: ``sigmoid`` of a convolution with batch normalization; ``one``, every capsule is fully active.

    Raises:
        InputError: sizes below 1 or that do not fit each other, an unknown word.
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
            if size < 1:
                raise InputError(f"ResNetEncoder: {name}={size}: expected at least 1")
        words = (("pose_norm", pose_norm, get_args(PoseNorm)), ("activation", activation, get_args(Activation)))
        for name, word, known in words:
            if word not in known:
                raise InputError(f"ResNetEncoder: {name}={word!r}: expected one of {', '.join(known)}")
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

    def maps(self, images: Tensor) -> Capsules:
        """See `MapEncoder.maps`."""
        features = self.trunk(images)
        maps = self.map_norm(_widened(self.poses(features)))  # (B, A * D, rows, columns)
        poses = self.capsule_norm(maps.unflatten(1, (self.num_types, self.dim)).permute(0, 3, 4, 1, 2))
        if self.scores is None:
            return Capsules(poses, poses.new_ones(poses.shape[:-1]))
        scores = self.score_norm(_widened(self.scores(features)))  # (B, A, rows, columns)
        return Capsules(poses, scores.sigmoid().permute(0, 2, 3, 1))


def _widened(maps: Tensor) -> Tensor:
    """In float32 at least, as capsules are normalized."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))
