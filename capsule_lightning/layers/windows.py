"""Windows over maps of capsules: how to cut them out, and how to add up what several windows hold about one capsule."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.errors import require
from capsule_lightning.layers.couplings import without_strays
from capsule_lightning.layers.precision import full_precision

LEAST_SHARE = 1e-7
"""What the released code of EM routing adds to the sum of densities that it divides by."""


@dataclass(frozen=True)
class Windows:
    """The positions of the windows of a convolutional capsule layer.

    Index letters: ``y``, ``x`` position of a window; ``p`` place inside it.

    Args:
        size: rows and columns of the map.
        kernel: rows and columns of a window.
        stride: places from one window to the next.
        padding: rows and columns of zeros on each side of the map.

    Attributes:
        out_size: number of windows in a column and in a row, which is the size of the map of parents.

    Raises:
        InputError: the windows do not fit.
    """

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: int = 1
    padding: int = 0

    def __post_init__(self) -> None:
        windows = f"windows of {self.kernel[0]}x{self.kernel[1]}"
        require(
            min(*self.size, *self.kernel, self.stride) >= 1 and self.padding >= 0,
            f"{windows}, stride {self.stride}, padding {self.padding}: expected sizes and stride of at least 1, and "
            "padding of 0 or more",
        )
        require(
            min(self.out_size) >= 1 and self.padding < min(self.kernel),
            f"{windows} with padding {self.padding} on a map of {self.size[0]}x{self.size[1]}: expected a map at least "
            "as large as a window, and less padding than a window is wide; choose smaller kernels or strides, or "
            "larger images",
        )

    @property
    def out_size(self) -> tuple[int, int]:
        """Number of windows in a column and in a row."""
        rows, columns = (
            (n + 2 * self.padding - k) // self.stride + 1 for n, k in zip(self.size, self.kernel, strict=True)
        )
        return rows, columns

    @property
    def places(self) -> int:
        """Number of places in a window."""
        return self.kernel[0] * self.kernel[1]

    def cut(self, maps: Tensor) -> Tensor:
        """Return the windows ``(B, y, x, p, *rest)`` of maps ``(B, rows, columns, *rest)``, zeros beyond the edge."""
        if self.padding:
            maps = F.pad(maps, (0, 0) * (maps.ndim - 3) + (self.padding,) * 4)
        if self.kernel == tuple(maps.shape[1:3]):
            return maps.flatten(1, 2)[:, None, None]
        cut = maps.unfold(1, self.kernel[0], self.stride).unfold(2, self.kernel[1], self.stride)
        return cut.movedim((-2, -1), (3, 4)).flatten(3, 4)

    def add_up(self, values: Tensor) -> Tensor:
        """Sum ``(B, y, x, p, A)`` over the windows that see a place: ``(B, rows, columns, A)``, of the padded map."""
        columns = values.permute(0, 4, 3, 1, 2).flatten(3).flatten(1, 2)  # (B, A * p, y * x)
        padded = tuple(n + 2 * self.padding for n in self.size)
        return F.fold(columns, padded, self.kernel, stride=self.stride).movedim(1, -1)

    @torch.no_grad()
    def largest(self, values: Tensor) -> Tensor:
        """Return the maximum over all windows that see a place, in the shape that `add_up` returns."""
        largest = values.new_full(
            (len(values), *(n + 2 * self.padding for n in self.size), values.shape[-1]), -torch.inf
        )
        for p in range(self.places):
            y, x = divmod(p, self.kernel[1])
            rows, columns = (
                slice(first, first + self.stride * (n - 1) + 1, self.stride)
                for first, n in zip((y, x), self.out_size, strict=True)
            )
            largest[:, rows, columns] = torch.maximum(largest[:, rows, columns], values[:, :, :, p])
        return largest


@full_precision
def compete_across_positions(logits: Tensor, windows: Windows, log_floor: float | None = None) -> Tensor:
    """Return coupling coefficients of children that several windows see, a softmax over the parents of *all* of these.

    A child under nine windows with 32 parents each divides itself among 288 parents.

    Args:
        logits: ``(B, y, x, p * A, J)``, of the windows of maps with A types of capsules.
        windows: the positions of the windows.
        log_floor: see `without_strays`; None for no floor.

    Returns:
        Tensor of the shape of ``logits``; the coefficients of each child sum to 1 over J and over all windows that see
        it, or to less if there is a floor.

    Source: Hinton, Sabour & Frosst, Matrix Capsules with EM Routing, ICLR 2018, Procedure 1; Gritzman 2019 (arXiv
    1907.00652) names the softmax over the parents of a single window as a pitfall.
    """
    places = logits.reshape(*logits.shape[:3], windows.places, -1, logits.shape[-1])  # (B, y, x, p, A, J)
    without_padding = _padded(windows)
    largest = without_padding.cut(windows.largest(places.amax(dim=-1)))
    weights = (places - largest.unsqueeze(-1)).exp()
    total = without_padding.cut(windows.add_up(weights.sum(dim=-1)))
    couplings: Tensor = weights / total.unsqueeze(-1)
    if log_floor is not None:
        couplings = without_strays(couplings, total.log() + largest, log_floor)
    return couplings.flatten(3, 4)


@full_precision
def compete_within_types(logits: Tensor, windows: Windows) -> Tensor:
    """Return what the released code of EM routing takes for couplings: each type of parents divides a child by itself.

    The densities of a child under the parents of one type, at all positions that see it, are divided by their sum, as
    multiples of the largest density under that type in the whole example. So types do not compete: the coefficients of
    a child sum to J. The paper's Procedure 1 divides by the sum over all parents, see `compete_across_positions`.

    Args:
        logits: ``(B, y, x, p * A, J)``, see `compete_across_positions`.
        windows: the positions of the windows.

    Returns:
        Tensor of the shape of ``logits``; the coefficients of each child and type of parents sum to 1 over the windows
        that see it, or to less if its densities are next to nothing.

    Source: the released code of Hinton, Sabour & Frosst 2018 (``capsule_em``), the convolutional layer behind their
    published results. With a stride of 2 it also divides some children by the sums of others, which is left out here.
    """
    largest = logits.amax(dim=(1, 2, 3), keepdim=True).detach()
    weights = (logits - largest).exp()
    places = weights.reshape(*logits.shape[:3], windows.places, -1)  # (B, y, x, p, A * J)
    total = _padded(windows).cut(windows.add_up(places))
    couplings: Tensor = weights / (total.reshape(weights.shape) + LEAST_SHARE)
    return couplings


def _padded(windows: Windows) -> Windows:
    """The same windows on the map with its padding."""
    rows, columns = (n + 2 * windows.padding for n in windows.size)
    return Windows((rows, columns), windows.kernel, windows.stride)


def coordinate_offsets(windows: Windows, num_types: int, dim: int) -> Tensor:
    """Return row and column of each child, to be added to its votes (coordinate addition).

    They are added to the first two elements of the right-hand column of a 4x4 pose (to the first two elements of a pose
    that is not a square matrix), as the fraction of the map's height and width at which the center of the child lies.
    The paper only says "scaled"; its released code scales pixels by 0.01 and adds them to the first two elements of the
    pose. The released code of De Sousa Ribeiro et al. 2020 adds much smaller ones to the elements chosen here.

    Args:
        windows: windows of the layer.
        num_types: types of children, A.
        dim: dimensions of a vote, E.

    Returns:
        ``(y, x, p * A, E)``, in [0, 1], except in the padding, where coordinates lie outside.

    Raises:
        InputError: a vote has fewer than 2 dimensions.

    Source: Hinton et al. 2018, section 4.
    """
    require(dim >= 2, f"coordinates in votes of {dim} dimension: expected at least 2, for row and column")
    side = isqrt(dim)
    row, column = (side - 1, 2 * side - 1) if side * side == dim and side > 1 else (0, 1)
    # `cut` pads with zeros, so the map is first widened by the coordinates outside it
    axes = [(torch.arange(-windows.padding, n + windows.padding) + 0.5) / n for n in windows.size]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    widened = Windows((len(axes[0]), len(axes[1])), windows.kernel, windows.stride)
    cut = widened.cut(places.unsqueeze(0)).squeeze(0)  # (y, x, p, 2)
    offsets = torch.zeros(*cut.shape[:3], num_types, dim)
    offsets[..., row], offsets[..., column] = cut[..., :1], cut[..., 1:]
    return offsets.flatten(2, 3)
