"""Matwo-CapsNet, a small U-shaped network of capsules with a pose matrix and an appearance matrix.

Bonheur et al., Matwo-CapsNet: a Multi-label Semantic Segmentation Capsules Network, MICCAI 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules, lengths_of
from capsule_lightning.decoders.base import Decoder
from capsule_lightning.errors import require
from capsule_lightning.kernels.blocks_of_positions import blocks_of, route_in_blocks
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.shared_kernel import SharedKernel
from capsule_lightning.layers.squash import squash
from capsule_lightning.models.segmentation import SegmentationNet
from capsule_lightning.models.shared_kernel_capsules import skip
from capsule_lightning.routing.dual import DualRouting

POSE, APPEARANCE = 4, 5
"""Rows and columns of the pose matrix and of the appearance matrix."""
DIM = POSE**2 + APPEARANCE**2


class MatwoRouter(nn.Module):
    """The votes and the routing of `MatwoCapsules`, for any rows of a padded map at once.

    Args:
        num_in: types of children, A.
        num_out: types of parents, J.
        kernel: the places of a window.
        iterations: passes of routing.
    """

    def __init__(self, num_in: int, num_out: int, kernel: SharedKernel, iterations: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.spatial = nn.Parameter(torch.empty(num_in * num_out, 1, kernel.size, kernel.size))
        bound = (3 / kernel.places) ** 0.5  # uniform, of variance 1 / places, as in the released code
        nn.init.uniform_(self.spatial, -bound, bound)
        self.routing = DualRouting(num_in, DIM, num_out, DIM, iterations=iterations, pose_dims=POSE**2)

    @override
    def forward(self, children: Capsules) -> Capsules:
        """Return parents ``poses (B, y, x, J, D)``.

        Args:
            children: ``poses (B, H, W, A, D)``, some rows of a padded map; in place of activations, which this routing
                does not use, ``(B, H, 2)``: the number of each row, and the rows of the map of all parents.
        """
        poses, rows = children
        maps = poses.permute(0, 4, 3, 1, 2).flatten(0, 1)  # (B * D, A, H, W)
        seen = self.kernel.votes(maps, self.spatial, groups=self.routing.num_in)
        windows = torch.unflatten(
            torch.unflatten(seen, 1, (self.routing.num_in, -1)), 0, (len(poses), -1)
        )  # (B, D, A, J, y, x)
        return self.routing.from_votes(self._votes(windows.permute(0, 4, 5, 2, 3, 1), rows), poses[..., 0])

    def _votes(self, windows: Tensor, rows: Tensor) -> Tensor:
        """Votes ``(B, y, x, A, J, D)``, in which matrices of poses have the pixel's coordinates in their last row."""
        kernel, votes = self.kernel, self.routing.votes_of(windows)
        first = rows[0, 0, 0] * kernel.stride if kernel.transposed else rows[0, 0, 0] / kernel.stride
        y = (first + torch.arange(windows.shape[1], device=windows.device)) / rows[0, 0, 1]
        x = torch.arange(windows.shape[2], device=windows.device) / windows.shape[2]
        last = windows[..., POSE - 1 : POSE**2 : POSE].to(votes.dtype)  # the last column of each pose
        along = [last * x.to(votes.dtype)[:, None, None, None], last * y.to(votes.dtype)[:, None, None, None, None]]
        shift = torch.stack(along, dim=-1)  # (B, y, x, A, J, POSE, 2), added to the first two columns
        shift = F.pad(shift, (0, POSE - 2)).flatten(-2)
        return votes + F.pad(shift, (0, APPEARANCE**2))


class MatwoCapsules(nn.Module):
    """A capsule layer with a kernel of single numbers for each pair of child and parent type, and matrices of votes.

    The kernel is convolved with each element of the child's pose matrix P and appearance matrix A; the votes are
    ``(k * P) N(W_P)`` and ``(k * A + b) W_A``, see `dual_votes`. To the last row of ``N(W_P)`` the position of the
    parent is added, its column to the first element and its row to the second, as fractions of the map. Capsules
    outside of the map are zero. Positions are routed a few rows at a time, see `SharedKernelCapsules` for the memory
    that this takes.

    Args:
        num_in: types of children, A.
        num_out: types of parents, J.
        kernel_size: rows and columns of the kernel.
        stride: places from one window to the next.
        transposed: make maps ``stride`` times as large instead.
        iterations: passes of routing.

    Source: Bonheur et al. 2019.

    Example:
        >>> MatwoCapsules(5, 6, stride=2)(Capsules(torch.rand(2, 8, 8, 5, 41), torch.rand(2, 8, 8, 5))).poses.shape
        torch.Size([2, 4, 4, 6, 41])
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        *,
        kernel_size: int = 5,
        stride: int = 1,
        transposed: bool = False,
        iterations: int = 3,
    ) -> None:
        super().__init__()
        self.router = MatwoRouter(num_in, num_out, SharedKernel(kernel_size, stride, transposed), iterations)

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        """Return ``poses (B, y, x, J, 41), activations (B, y, x, J)`` of maps ``poses (B, H, W, A, 41)``."""
        kernel, routing = self.router.kernel, self.router.routing
        poses = kernel.pad(capsules.poses)
        size = kernel.out_size((capsules.poses.shape[1], capsules.poses.shape[2]))
        numbers = torch.arange(poses.shape[1], dtype=torch.float64, device=poses.device).to(poses.dtype)
        rows = torch.stack([numbers, torch.full_like(numbers, size[0])], dim=-1).expand(len(poses), -1, -1)
        children = Capsules(poses, rows)
        if torch.compiler.is_compiling():
            parents: Capsules = self.router(children)
            return parents
        votes_of_row = size[1] * routing.num_in * routing.num_out * DIM
        blocks = blocks_of(len(poses), size[0], votes_of_row, kernel, poses.device.type)
        return self.router(children) if len(blocks) < 2 else route_in_blocks(self.router, children, size, blocks)


class MatwoCapsNet(SegmentationNet):
    """A U-shaped network of capsules of two matrices, for several labels, with 42,925 parameters in the paper.

    That is for six classes, the background among them, and gray images. The class score of the paper is ``|P| |A|``,
    of which activations are a quarter, so that they lie in [0, 1]: its spread loss with a margin of up to 0.9 has here
    one of up to 0.225. Matrices of appearance are drawn with the variance that keeps lengths (the released code has a
    standard deviation of 0.01).

    Args:
        in_shape: ``(C, H, W)`` of one image, of any size.
        num_classes: classes with the background, J.
        decoder: called with ``(num_classes, 41, in_shape)``; null for none, as in the paper.
        types: capsule types on maps of the full size, of half, a quarter and an eighth of it.
        iterations: passes of routing.
        kernel_size: rows and columns of the kernels, but for the last layer, 1, and those that enlarge maps, 4.

    Raises:
        InputError: a number is below 1, or there are not four ``types``.

    Example:
        >>> sum(parameter.numel() for parameter in MatwoCapsNet((1, 32, 32), 6).parameters())
        42925
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        decoder: Callable[[int, int, tuple[int, ...]], Decoder] | None = None,
        types: Sequence[int] = (5, 5, 6, 7),
        iterations: int = 3,
        kernel_size: int = 5,
    ) -> None:
        super().__init__(in_shape, num_classes)
        require(
            len(types) == 4 and min(types) >= 1,
            f"MatwoCapsNet: types={list(types)}: expected four numbers, each at least 1",
        )

        def layer(num_in: int, num_out: int, stride: int = 1, passes: int = iterations) -> nn.Module:
            return MatwoCapsules(num_in, num_out, kernel_size=kernel_size, stride=stride, iterations=passes)

        def larger(num_in: int, num_out: int) -> nn.Module:
            return MatwoCapsules(num_in, num_out, kernel_size=4, stride=2, transposed=True, iterations=iterations)

        full, half, quarter, eighth = types
        self.stem = nn.Conv2d(self.in_shape[0], full * APPEARANCE**2, kernel_size, padding="same")
        self.appearance = nn.Parameter(torch.randn(full, APPEARANCE, APPEARANCE) / APPEARANCE**0.5)
        self.down = nn.ModuleList(
            [
                layer(full, half, passes=1),
                nn.Sequential(layer(half, half, 2), layer(half, half)),
                nn.Sequential(layer(half, quarter, 2), layer(quarter, quarter)),
                nn.Sequential(layer(quarter, eighth, 2), layer(eighth, eighth), layer(eighth, eighth)),
            ]
        )
        self.up = nn.ModuleList([larger(eighth, eighth), larger(eighth, quarter), larger(quarter, quarter)])
        self.merge = nn.ModuleList([layer(eighth + quarter, eighth), layer(quarter + half, quarter)])
        self.classes = MatwoCapsules(quarter + half, num_classes, kernel_size=1, iterations=iterations)
        self.decoder = None if decoder is None else decoder(num_classes, DIM, self.in_shape)

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        capsules = _primary(self.stem(images), self.appearance)
        earlier = []
        for layers in self.down:
            capsules = layers(capsules)
            earlier.append(capsules)
        for layer, merge, before in zip(self.up, self.merge, earlier[2:0:-1], strict=False):
            capsules = merge(skip(layer(capsules), before))
        found: Capsules = self.classes(skip(self.up[-1](capsules), earlier[0]))
        return found


@full_precision
def _primary(maps: Tensor, weight: Tensor) -> Capsules:
    """Return capsules whose pose is the unit matrix, and whose appearance is the squashed ``relu(maps) W``.

    Args:
        maps: ``(B, A * 25, H, W)``.
        weight: ``(A, 5, 5)``.

    Returns:
        ``poses (B, H, W, A, 41), activations (B, H, W, A)``.
    """
    matrices = torch.unflatten(F.relu(maps), 1, (len(weight), APPEARANCE, APPEARANCE)).permute(0, 4, 5, 1, 2, 3)
    appearance = squash((matrices @ weight).flatten(-2))
    pose = torch.eye(POSE, dtype=maps.dtype, device=maps.device).flatten().expand(*appearance.shape[:-1], -1)
    return Capsules(torch.cat([pose, appearance], dim=-1), lengths_of(appearance) / 2)
