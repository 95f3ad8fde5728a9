"""Convolutional capsules: any routing, applied to windows of a map with the same weights at every position.

Hinton, Sabour & Frosst, Matrix Capsules with EM Routing, ICLR 2018, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require_one_of
from capsule_lightning.layers.windows import Windows
from capsule_lightning.routing.base import CompetitionScope, Routing


class ConvCapsules(nn.Module):
    """A capsule layer that routes the capsules of each window to parents of its own.

    Args:
        size: rows and columns of the map of children.
        num_in: types of children, A.
        dim_in: dimensions of a child's pose, D.
        num_out: types of parents, J.
        dim_out: dimensions of a parent's pose, E.
        routing: called with ``(p * A, dim_in, num_out, dim_out)``, p the places of a window.
        kernel_size: rows and columns of a window; null for one window as large as the map.
        stride: places from one window to the next.
        padding: rows and columns of zeros on each side of the map.
        share_votes: share the vote matrices of a type over the places of a window, as class capsules do.
        coordinates: add the position of the child in the map to its votes, see `coordinate_offsets`; null to do so with
            the algorithms whose papers do (`MatrixRouting`).
        competition: the parents among which a child divides itself. ``positions``: those of all windows that see the
            child; ``window``: those of one window; ``type``: those of one type at all positions, each type by itself,
            as the released code of EM routing has it, see `compete_within_types`; ``auto``: ``positions`` with the
            algorithms whose papers do so (`MatrixRouting`), otherwise ``window``.
        scrambled: reorder the windows as the first released code of Tsai et al. 2020 does, which fills the "pose" at
            one position with one pose element of many positions; for comparison with its results.

    Attributes:
        out_size: rows and columns of the map of parents.

    Raises:
        InputError: the windows do not fit, or the routing does not support the coordinates or the competition.

    Example:
        >>> import torch
        >>> from capsule_lightning.routing.uniform import UniformRouting
        >>> layer = ConvCapsules((8, 8), 4, 16, 6, 16, routing=UniformRouting, kernel_size=3, stride=2)
        >>> layer(Capsules.from_vectors(torch.rand(2, 8, 8, 4, 16))).poses.shape
        torch.Size([2, 3, 3, 6, 16])
    """

    def __init__(
        self,
        size: tuple[int, int],
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        routing: Callable[..., Routing],
        kernel_size: int | None = 3,
        stride: int = 1,
        padding: int = 0,
        share_votes: bool = False,
        coordinates: bool | None = False,
        competition: CompetitionScope = "auto",
        scrambled: bool = False,
    ) -> None:
        super().__init__()
        require_one_of("competition", competition, get_args(CompetitionScope))
        kernel = size if kernel_size is None else (kernel_size, kernel_size)
        self.windows, self.scrambled = Windows(size, kernel, stride, padding), scrambled
        self.out_size = self.windows.out_size
        shapes = (kernel[0] * kernel[1] * num_in, dim_in, num_out, dim_out)
        self.routing = routing(*shapes, vote_weights=num_in) if share_votes else routing(*shapes)
        self.routing.in_windows(self.windows, competition=competition, coordinates=coordinates)

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        """Return the parents of every window.

        Args:
            capsules: ``poses (B, rows, columns, A, D), activations (B, rows, columns, A)``.

        Returns:
            ``poses (B, y, x, J, E), activations (B, y, x, J)``.
        """
        parents: Capsules = self.routing(self.window_children(capsules))
        return parents

    def couplings(self, capsules: Capsules) -> Tensor:
        """Return the coupling coefficients ``(B, y, x, p * A, J)`` of the children of each window."""
        return self.routing.couplings(self.window_children(capsules))

    def window_children(self, capsules: Capsules) -> Capsules:
        """Return the children of each window, ``poses (B, y, x, p * A, D), activations (B, y, x, p * A)``."""
        poses, activations = self.windows.cut(capsules.poses), self.windows.cut(capsules.activations)
        if self.scrambled:
            # memory of (B, A, p, D, y, x), read as if it were (B, A, p, y, x, D)
            stacked = poses.permute(0, 4, 3, 5, 1, 2).contiguous()
            poses = stacked.view(*stacked.shape[:3], *self.out_size, -1).permute(0, 3, 4, 2, 1, 5)
        return Capsules(poses.flatten(3, 4), activations.flatten(3, 4))
