"""Convolutional capsules that choose the places from which children vote.

LaLonde, Khosravan & Bagci, Deformable Capsules for Object Detection, 2021 (arXiv 2104.05031), whose abstract says that
the grid on which a parent samples its children is deformed by learnt offsets; they released no code. How offsets are
computed follows Dai et al., Deformable Convolutional Networks, ICCV 2017 (arXiv 1703.06211).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.kernels.blocks_of_positions import Block, route_in_blocks
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.models.shared_kernel_capsules import SharedKernelCapsules, by_type
from capsule_lightning.routing.base import Routing


class DeformableRouter(nn.Module):
    """The votes of deformed windows and their routing, for whole examples.

    Args:
        plain: the layer whose windows are deformed; its weights are used.
        offsets: the convolution that says by how much.
    """

    def __init__(self, plain: SharedKernelCapsules, offsets: nn.Conv2d) -> None:
        super().__init__()
        self.plain, self.offsets = plain.router, offsets

    @override
    def forward(self, children: Capsules) -> Capsules:
        """Return parents ``poses (B, y, x, J, E)`` of padded maps, ``poses (B, H, W, A, D)``."""
        kernel, routing, batch = self.plain.kernel, self.plain.routing, len(children.poses)
        weight = self.plain.convolution_weight(children.poses.shape[-1])
        assert weight is not None  # the layer has seen to it
        maps = by_type(children.poses)
        moved = self.offsets(maps)
        votes = _deformed_votes(maps, moved, weight, kernel.stride)
        activations = by_type(children.activations.unsqueeze(-1))
        ones = weight.new_ones(1, 1, kernel.size, kernel.size)
        shares = _deformed_votes(activations, moved, ones, kernel.stride) / kernel.places
        of_types = votes.reshape(batch, -1, routing.num_out, routing.dim_out, *votes.shape[2:])
        activations = shares.reshape(batch, -1, *shares.shape[2:]).permute(0, 2, 3, 1)
        return routing.from_votes(of_types.permute(0, 4, 5, 1, 2, 3), activations)


@full_precision
def _deformed_votes(maps: Tensor, offsets: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Return ``(N, C, y, x)``, the convolution of maps ``(N, D, H, W)`` sampled at moved places.

    Args:
        maps: ``(N, D, H, W)``, padded.
        offsets: ``(N, 2 K K, y, x)``, rows and columns by which each place of a window is moved.
        weight: ``(C, D, K, K)``.
        stride: places from one window to the next.
    """
    if torch.compiler.is_compiling():  # which knows the samples of `grid_sample`, for ONNX too
        return _sampled_votes(maps, offsets, weight, stride)
    from torchvision.ops import deform_conv2d  # which takes a second to import

    votes: Tensor = deform_conv2d(maps, offsets.to(maps.dtype), weight.to(maps.dtype), stride=stride)
    return votes


def _sampled_votes(maps: Tensor, offsets: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Return what `_deformed_votes` does, of bilinear samples."""
    size, (rows, columns) = weight.shape[-1], offsets.shape[2:]
    moved = torch.unflatten(offsets, 1, (size * size, 2))  # (N, K K, 2, y, x)
    places = torch.arange(size * size, device=maps.device)
    tops, lefts = torch.arange(rows, device=maps.device), torch.arange(columns, device=maps.device)
    y = (places // size)[:, None, None] + stride * tops[:, None] + moved[:, :, 0]
    x = (places % size)[:, None, None] + stride * lefts + moved[:, :, 1]
    # `grid_sample` counts from -1, the outer edge of the first pixel, to 1, that of the last
    grid = torch.stack([(2 * at + 1) / n - 1 for at, n in ((x, maps.shape[3]), (y, maps.shape[2]))], dim=-1)
    samples = F.grid_sample(maps, grid.flatten(1, 2), align_corners=False)  # (N, D, K K * y, x)
    samples = torch.unflatten(samples, 2, (size * size, rows))
    return torch.einsum("ndpyx,cdp->ncyx", samples, weight.flatten(2))


class DeformableCapsules(nn.Module):
    """A layer like `SharedKernelCapsules` whose windows are deformed by offsets that the children give.

    A convolution of the map of each child type, the same for all types, says for each place of a window how many rows
    and columns further a child is taken from, interpolated between four. Its weights are zero at first, so that
    the layer starts as the plain one. What lies beyond the edge of the map is zero.

    Memory. As a window may reach any part of a map, positions are routed one example at a time, and again in the
    backward pass: a training step needs the votes of one example, ``A J E`` numbers for each position, and keeps
    ``A D`` and ``J E``.

    Args:
        num_in, dim_in, num_out, dim_out, kernel_size, stride: see `SharedKernelCapsules`.
        routing: called with ``(A, D * K * K, num_out, dim_out, vote_weights=1)``; it must be one that takes votes that
            were formed elsewhere, with one matrix for a vote (dynamic, EM, self-attention and others).

    Raises:
        InputError: a size is below 1, or the routing does not take votes.

    Example:
        >>> from capsule_lightning.routing.dynamic import DynamicRouting
        >>> layer = DeformableCapsules(4, 16, 6, 8, routing=DynamicRouting, kernel_size=5, stride=2)
        >>> layer(Capsules.from_vectors(torch.rand(2, 9, 8, 4, 16))).poses.shape
        torch.Size([2, 5, 4, 6, 8])
    """

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        routing: Callable[..., Routing],
        kernel_size: int = 5,
        stride: int = 1,
    ) -> None:
        super().__init__()
        plain = SharedKernelCapsules(
            num_in, dim_in, num_out, dim_out, routing=routing, kernel_size=kernel_size, stride=stride
        )
        require(
            plain.router.convolution_weight(dim_in) is not None,
            f"DeformableCapsules: {type(plain.routing).__name__} does not route the votes of a convolution; choose "
            "another routing, such as DynamicRouting or SelfAttentionRouting",
        )
        offsets = nn.Conv2d(dim_in, 2 * kernel_size**2, kernel_size, stride=stride)
        for parameter in offsets.parameters():
            nn.init.zeros_(parameter)
        self.router, self.blocked = DeformableRouter(plain, offsets), plain.blocked

    @property
    def routing(self) -> Routing:
        """The routing of each window."""
        return self.router.plain.routing

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        """Return ``poses (B, y, x, J, E), activations (B, y, x, J)`` of ``poses (B, H, W, A, D)``."""
        kernel = self.router.plain.kernel
        children = Capsules(*(kernel.pad(part) for part in capsules))
        if torch.compiler.is_compiling() or len(children.poses) < 2 or (self.training and not self.blocked):
            parents: Capsules = self.router(children)
            return parents
        size = kernel.out_size((capsules.poses.shape[1], capsules.poses.shape[2]))
        blocks = [Block(slice(n, n + 1), slice(None), slice(None)) for n in range(len(children.poses))]
        return route_in_blocks(self.router, children, size, blocks)
