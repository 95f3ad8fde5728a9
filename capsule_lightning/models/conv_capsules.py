"""Convolutional capsules: any routing, in windows of a map, with the same weights at every position.

Hinton, Sabour & Frosst, Matrix Capsules with EM Routing, ICLR 2018, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import InputError
from capsule_lightning.layers.windows import Windows, compete_across_positions
from capsule_lightning.routing.base import MatrixRouting, Routing

Competition = Literal["auto", "positions", "window"]


class ConvCapsules(nn.Module):
    """Routes the capsules of each window to parents of its own.

    Args:
        size: rows and columns of the map of children.
        num_in: types of children, A.
        dim_in: dimensions of their poses, D.
        num_out: types of parents, J.
        dim_out: dimensions of their poses, E.
        routing: called with ``(p * A, dim_in, num_out, dim_out)``, p the places of a window.
        kernel_size: rows and columns of a window; null for one window as large as the map.
        stride: from one window to the next.
        padding: zeros around the map.
        share_votes: share the vote matrices of a type over the places of a window, as class capsules do.
        coordinates: add to the votes where in the map the child stands, see `coordinate_offsets`; null for the
            algorithms whose papers do so (`MatrixRouting`).
        competition: among whom a child divides itself: ``positions``, the parents of all windows that see it;
            ``window``, those of one; ``auto``, ``positions`` for the algorithms whose papers do so (`MatrixRouting`).
        scrambled: reorder the windows as the first released code of Tsai et al. 2020 does, which fills the "pose" at
            one position with one pose element of many; for comparison with results made by it.

    Attributes:
        out_size: rows and columns of the map of parents.

    Raises:
        InputError: windows that do not fit; coordinates or competition that the routing does not have.

    Example:
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
        competition: Competition = "auto",
        scrambled: bool = False,
    ) -> None:
        super().__init__()
        if competition not in get_args(Competition):
            raise InputError(f"competition={competition!r}: expected one of {', '.join(get_args(Competition))}")
        kernel = size if kernel_size is None else (kernel_size, kernel_size)
        self.windows, self.scrambled = Windows(size, kernel, stride, padding), scrambled
        self.out_size = self.windows.out_size
        shapes = (kernel[0] * kernel[1] * num_in, dim_in, num_out, dim_out)
        self.routing = routing(*shapes, vote_weights=num_in) if share_votes else routing(*shapes)
        matrix = isinstance(self.routing, MatrixRouting)
        if not matrix and (coordinates or competition == "positions"):
            wrong = "coordinates: true" if coordinates else "competition: positions"
            raise InputError(
                f"{wrong} with {type(self.routing).__name__}: only the routings of matrix capsules (EM, variational "
                "Bayes) add coordinates to votes and compete across positions; leave the option out"
            )
        if isinstance(self.routing, MatrixRouting):
            if competition != "window" and self.out_size != (1, 1):
                self.routing.compete = self._compete
            if coordinates or coordinates is None:
                self.routing.offsets = coordinate_offsets(self.windows, num_in, dim_out)

    def forward(self, capsules: Capsules) -> Capsules:
        """Parents in every window.

        Args:
            capsules: ``poses (B, rows, columns, A, D), activations (B, rows, columns, A)``.

        Returns:
            ``poses (B, y, x, J, E), activations (B, y, x, J)``.
        """
        parents: Capsules = self.routing(self.windowed(capsules))
        return parents

    def couplings(self, capsules: Capsules) -> Tensor:
        """Coupling coefficients ``(B, y, x, p * A, J)`` of the children of each window."""
        return self.routing.couplings(self.windowed(capsules))

    def windowed(self, capsules: Capsules) -> Capsules:
        """The children of each window, ``poses (B, y, x, p * A, D), activations (B, y, x, p * A)``."""
        poses, activations = self.windows.cut(capsules.poses), self.windows.cut(capsules.activations)
        if self.scrambled:
            # (B, A, p, D, y, x) read as if it were (B, A, p, y, x, D)
            stacked = poses.permute(0, 4, 3, 5, 1, 2).contiguous()
            poses = stacked.view(*stacked.shape[:3], *self.out_size, -1).permute(0, 3, 4, 2, 1, 5)
        return Capsules(poses.flatten(3, 4), activations.flatten(3, 4))

    def _compete(self, logits: Tensor) -> Tensor:
        return compete_across_positions(logits, self.windows)


def coordinate_offsets(windows: Windows, num_types: int, dim: int) -> Tensor:
    """Coordinate addition: row and column of each child, to be added to its votes.

    They go to the first two elements of the right-hand column of a 4x4 pose (to the first two elements of a pose that
    is no square matrix), as the fraction of the map's height and width at which the child's center lies. The paper says
    "scaled" and no more; its released code scales pixels by 0.01 and adds them to the first two elements of the pose.
    That of De Sousa Ribeiro et al. 2020 adds much smaller ones to the elements chosen here.

    Args:
        windows: of the layer.
        num_types: types of children, A.
        dim: dimensions of a vote, E.

    Returns:
        ``(y, x, p * A, E)``, in [0, 1], outside of it in the padding.

    Raises:
        InputError: a vote of fewer than 2 dimensions.

    Source: Hinton et al. 2018, section 4.
    """
    if dim < 2:
        raise InputError(f"coordinates in votes of {dim} dimension: expected at least 2, for row and column")
    side = isqrt(dim)
    row, column = (side - 1, 2 * side - 1) if side * side == dim and side > 1 else (0, 1)
    # cut knows no coordinates outside the map, so the map is widened by them first
    axes = [(torch.arange(-windows.padding, n + windows.padding) + 0.5) / n for n in windows.size]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    widened = Windows((len(axes[0]), len(axes[1])), windows.kernel, windows.stride)
    cut = widened.cut(places.unsqueeze(0)).squeeze(0)  # (y, x, p, 2)
    offsets = torch.zeros(*cut.shape[:3], num_types, dim)
    offsets[..., row], offsets[..., column] = cut[..., :1], cut[..., 1:]
    return offsets.flatten(2, 3)
