"""Convolutional capsules whose types all vote with one kernel, for maps that become smaller, larger, or neither.

LaLonde & Bagci, Capsules for Object Segmentation, 2018 (arXiv 1804.04241), section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require, require_one_of
from capsule_lightning.kernels.blocks_of_positions import blocks_of, route_in_blocks
from capsule_lightning.layers.shared_kernel import SharedKernel, enlarge
from capsule_lightning.routing.base import Routing

Upsampling = Literal["transposed", "resize"]


class WindowRouter(nn.Module):
    """The routing of a window, for any rows of a padded map at once.

    Args:
        kernel: the places of a window.
        routing: routes A children, whose poses are the windows ``D * K * K``, all by the same vote matrices.
    """

    def __init__(self, kernel: SharedKernel, routing: Routing) -> None:
        super().__init__()
        self.kernel, self.routing = kernel, routing

    @override
    def forward(self, children: Capsules) -> Capsules:
        """Return parents ``poses (B, y, x, J, E)`` of rows of a padded map, ``poses (B, H, W, A, D)``."""
        weight = self.convolution_weight(children.poses.shape[-1])
        if weight is None:
            parents: Capsules = self.routing(self.window_children(children))
            return parents
        votes = self.kernel.votes(by_type(children.poses), weight)  # (B * A, J * E, y, x)
        of_types = votes.reshape(len(children.poses), -1, self.routing.num_out, self.routing.dim_out, *votes.shape[2:])
        return self.routing.from_votes(of_types.permute(0, 4, 5, 1, 2, 3), self._activations(children))

    def convolution_weight(self, dim_in: int) -> Tensor | None:
        """Return the vote weight as ``(J * E, D, K, K)``; None if the routing does not take votes of a convolution."""
        routing, size = self.routing, self.kernel.size
        weight = getattr(routing, "weight", None)
        shape = (1, routing.num_out, routing.dim_out, dim_in * size * size)
        if not routing.routes_votes or not isinstance(weight, Tensor) or weight.shape != shape:
            return None
        return weight.view(-1, dim_in, size, size)

    def window_children(self, children: Capsules) -> Capsules:
        """Return the children of each window, ``poses (B, y, x, A, D * K * K), activations (B, y, x, A)``."""
        windows = self.kernel.windows(by_type(children.poses))
        of_types = torch.unflatten(windows, 0, (len(children.poses), -1)).movedim(1, 3)
        return Capsules(of_types, self._activations(children))

    def _activations(self, children: Capsules) -> Tensor:
        by_type = children.activations.movedim(3, 1)
        means = self.kernel.means(by_type.flatten(0, 1))
        return torch.unflatten(means, 0, by_type.shape[:2]).movedim(1, 3)


def by_type(poses: Tensor) -> Tensor:
    """Return poses ``(B, H, W, A, D)`` as ``(B * A, D, H, W)``, the dimensions of a pose next to each other."""
    return poses.permute(0, 3, 4, 1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


class SharedKernelCapsules(nn.Module):
    """A capsule layer in which the kernel of K x K belongs to the parents: children of all types vote with the same.

    The vote of a type at a position is the sum of what its capsules in the window say, so that routing sees one vote
    for each of the A types: ``u[i] = sum_k W[k] p_i[k]``. Beyond the edge of the map lie capsules of length and
    activation zero, which add nothing to a vote. A type is as active in a window as the mean of its capsules there.

    Memory. Routing needs ``A J E`` numbers for the votes of a position, and several times that for its gradient.
    Positions are routed a few rows at a time, and again in the backward pass, so that a training step keeps ``A D``
    numbers of each child's position and ``J E`` of each parent's, and needs the votes of one block: 8 MiB on a CPU,
    128 MiB on a GPU, or of one row if these are more, times what routing makes of them. Routings with statistics over
    the batch (variational Bayes, or self-routing with ``normalize``) see all positions at once while they train, and
    keep the votes.

    Args:
        num_in: types of children, A; it matters to routings that have parameters for each child.
        dim_in: dimensions of a child's pose, D.
        num_out: types of parents, J.
        dim_out: dimensions of a parent's pose, E.
        routing: called with ``(A, D * K * K, num_out, dim_out, vote_weights=1)``. Its matrices of votes, if it has them
            as other routings do, are drawn anew, normal with the variance of He et al. 2015, as in the released code.
        kernel_size: rows and columns of the kernel, K.
        stride: places from one window to the next.
        upsampling: make maps ``stride`` times as large instead: ``transposed``, by a transposed convolution;
            ``resize``, by repeating capsules before a convolution; null not to.

    Attributes:
        router: what routes rows of windows; its ``routing`` is the layer's.

    Raises:
        InputError: a size is below 1, or ``upsampling`` is unknown or has a kernel smaller than its stride.

    Example:
        >>> from capsule_lightning.routing.dynamic import DynamicRouting
        >>> layer = SharedKernelCapsules(4, 16, 6, 8, routing=DynamicRouting, kernel_size=5, stride=2)
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
        upsampling: Upsampling | None = None,
    ) -> None:
        super().__init__()
        if upsampling is not None:
            require_one_of("upsampling", upsampling, get_args(Upsampling))
        self.factor = stride if upsampling == "resize" else 1
        kernel = SharedKernel(kernel_size, 1 if upsampling == "resize" else stride, upsampling == "transposed")
        made = routing(num_in, dim_in * kernel_size**2, num_out, dim_out, vote_weights=1)
        self.router = WindowRouter(kernel, made)
        weight = self.router.convolution_weight(dim_in)
        if weight is not None:
            nn.init.normal_(weight, std=sqrt(2 / (kernel.places * dim_in)))
        self.blocked = not any(isinstance(module, _BatchNorm) for module in made.modules())

    @property
    def routing(self) -> Routing:
        """The routing of each window."""
        return self.router.routing

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        """Return the map of parents.

        Args:
            capsules: ``poses (B, H, W, A, D), activations (B, H, W, A)``.

        Returns:
            ``poses (B, y, x, J, E), activations (B, y, x, J)``, with ``y = ceil(H / stride)``, or ``stride * H``
            if maps are made larger.
        """
        children, kernel = self._padded(capsules), self.router.kernel
        whole = self.routing.of_whole_maps or (self.training and not self.blocked)
        if whole or torch.compiler.is_compiling():
            parents: Capsules = self.router(children)
            return parents
        rows, columns = (n * self.factor for n in capsules.poses.shape[1:3])
        size = kernel.out_size((rows, columns))
        votes_of_row = size[1] * self.routing.num_in * self.routing.num_out * self.routing.dim_out
        device = capsules.poses.device.type
        blocks = blocks_of(len(capsules.poses), size[0], votes_of_row, kernel, device)
        return self.router(children) if len(blocks) < 2 else route_in_blocks(self.router, children, size, blocks)

    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the coupling coefficients ``(B, y, x, A, J)`` of the types in each window, for all positions."""
        return self.routing.couplings(self.window_children(capsules))

    def window_children(self, capsules: Capsules) -> Capsules:
        """Return the children of each window, ``poses (B, y, x, A, D * K * K), activations (B, y, x, A)``."""
        return self.router.window_children(self._padded(capsules))

    def _padded(self, capsules: Capsules) -> Capsules:
        return Capsules(*(self.router.kernel.pad(enlarge(part, self.factor)) for part in capsules))


def skip(capsules: Capsules, earlier: Capsules) -> Capsules:
    """Return capsules of two layers as types of one map, in the way of a U-shaped network.

    A map that was made smaller and larger again may have become larger than it was, if its size was no multiple of the
    stride; the surplus rows and columns at its end are left out.

    Args:
        capsules: ``poses (B, H, W, A, D), activations (B, H, W, A)``, from below.
        earlier: ``poses (B, h, w, A', D), activations (B, h, w, A')`` of the same resolution, ``h <= H`` and
            ``w <= W``.

    Returns:
        ``poses (B, h, w, A + A', D), activations (B, h, w, A + A')``.

    Raises:
        InputError: the poses have different dimensions, or the earlier map is larger.
    """
    _, rows, columns, _, dim = earlier.poses.shape
    found = capsules.poses.shape
    require(
        dim == found[4] and rows <= found[1] and columns <= found[2],
        f"skip connection from capsules of {dim} dimensions on {rows}x{columns} to those of {found[4]} dimensions on "
        f"{found[1]}x{found[2]}: expected the same dimensions, and a map at least as large",
    )
    parts = zip(capsules, earlier, strict=True)
    return Capsules(*(torch.cat([part[:, :rows, :columns], old], dim=3) for part, old in parts))
