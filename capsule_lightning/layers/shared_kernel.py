"""Votes of maps of capsules whose types all vote with one kernel.

LaLonde & Bagci, Capsules for Object Segmentation, 2018 (arXiv 1804.04241), section 2. Maps of children are
``(N, D, H, W)`` here: one map of H rows and W columns for each of N pairs of example and type.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.errors import require
from capsule_lightning.layers.precision import full_precision


@dataclass(frozen=True)
class SharedKernel:
    """The places of a map of capsules that a kernel of K x K sees.

    With a stride of s it makes maps of ``ceil(H / s)`` rows. The map is first surrounded by capsules of length zero,
    whose votes are zero, see `pad`; if their number is odd, there is one more after the map than before, as with
    TensorFlow's padding ``same``. The transposed kernel makes maps of ``s H`` rows.

    Args:
        size: rows and columns of the kernel, K.
        stride: places from one window to the next; rows of parents for each row of children if ``transposed``.
        transposed: enlarge maps.

    Raises:
        InputError: a number is below 1, or a transposed kernel is smaller than its stride.
    """

    size: int
    stride: int = 1
    transposed: bool = False

    def __post_init__(self) -> None:
        kernel = f"a kernel of {self.size}x{self.size} with a stride of {self.stride}"
        require(min(self.size, self.stride) >= 1, f"{kernel}: expected at least 1 each")
        require(
            not self.transposed or self.size >= self.stride,
            f"transposed: {kernel}: expected a kernel at least as large as the stride, since some parents would have "
            "no children",
        )

    @property
    def parents_per_row(self) -> int:
        """Rows of parents that belong together, so that every such part of a map is computed alike."""
        return self.stride if self.transposed else 1

    @property
    def places(self) -> float:
        """Number of children of one type in a window; the mean of the windows if ``transposed``."""
        return (self.size / self.stride) ** 2 if self.transposed else self.size**2

    def out_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of the map of parents, of those of the children."""
        rows, columns = (n * self.stride if self.transposed else -(-n // self.stride) for n in size)
        return rows, columns

    def pad(self, maps: Tensor) -> Tensor:
        """Return maps ``(B, H, W, ...)`` with the zeros around them that `votes`, `windows` and `means` expect.

        Rows and columns that no window sees, because the stride is larger than the kernel, are cut off.
        """
        size = maps.shape[1:3]
        top, bottom, left, right = (*self._around(size[0]), *self._around(size[1]))
        return F.pad(maps, (0, 0) * (maps.ndim - 3) + (left, right, top, bottom))

    def seen(self, first: int, last: int) -> slice:
        """Return the rows of the padded map that rows ``first`` to ``last - 1`` of `parents_per_row` parents see."""
        if self.transposed:
            return slice(first, last + sum(self._around(1)))
        return slice(first * self.stride, (last - 1) * self.stride + self.size)

    def votes(self, maps: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
        """Return the votes of children in a padded map, or in some rows of it, as one convolution.

        Args:
            maps: ``(N, D, H, W)``, poses of the children.
            weight: ``(C, D / groups, K, K)``, for the C = J E numbers in the votes for all parents.
            groups: parts of D and C, each of which is convolved by itself.

        Returns:
            ``(N, C, rows, columns)``, in the precision that autocast asks for; each vote is the sum of what the
            children of one type in its window say, ``sum_k W[k] u[p + k]``.
        """
        if not self.transposed:
            return F.conv2d(maps, weight, stride=self.stride, groups=groups)
        of_children = torch.unflatten(weight.flip(-2, -1), 0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        votes = F.conv_transpose2d(maps, of_children, stride=self.stride, groups=groups)
        before, halo = self._around(1)[0], sum(self._around(1))
        top = before * self.stride + (self.size - self.stride) // 2
        rows, columns = ((n - halo) * self.stride for n in maps.shape[2:])
        return votes[:, :, top : top + rows, top : top + columns]

    def windows(self, maps: Tensor) -> Tensor:
        """Return what each vote of `votes` is a product with: the poses in a window, one after the other.

        Args:
            maps: ``(N, D, H, W)``, padded.

        Returns:
            ``(N, rows, columns, D * K * K)``, zeros outside of the map and, if ``transposed``, between its rows and
            columns. Its product with a row of the weight is the vote.
        """
        stride = self.stride
        if self.transposed:
            before, halo = self._around(1)[0], sum(self._around(1))
            first = before * stride + (self.size - stride) // 2 - self.size + 1
            lengths = [(n - halo) * stride + self.size - 1 for n in maps.shape[2:]]
            apart = F.pad(maps[:, :, :, None, :, None], (0, stride - 1, 0, 0, 0, stride - 1))  # (N, D, H, s, W, s)
            maps = apart.flatten(4, 5).flatten(2, 3)
            rows, columns = ((-first, first + n - m) for n, m in zip(lengths, maps.shape[2:], strict=True))
            maps = F.pad(maps, (*columns, *rows))  # less than nothing cuts off
            stride = 1
        cut = maps.unfold(2, self.size, stride).unfold(3, self.size, stride)
        return cut.permute(0, 2, 3, 1, 4, 5).flatten(3)

    def means(self, values: Tensor) -> Tensor:
        """Return the mean of values ``(N, H, W)``, padded, in each window: ``(N, rows, columns)``, float32 or wider.

        What lies outside of the map counts as 0, and the number of places is that of a window inside of it.
        """
        return _sums(values, self) / self.places

    def _around(self, count: int) -> tuple[int, int]:
        """Rows of zeros before and after a map of ``count`` rows."""
        if self.transposed:
            cut = (self.size - self.stride) // 2
            return (self.size - 1 - cut) // self.stride, (self.stride - 1 + cut) // self.stride
        total = (-(-count // self.stride) - 1) * self.stride + self.size - count
        return (max(0, total) // 2, total - max(0, total) // 2)


@full_precision
def _sums(values: Tensor, kernel: SharedKernel) -> Tensor:
    return kernel.votes(values.unsqueeze(1), values.new_ones(1, 1, kernel.size, kernel.size)).squeeze(1)


def enlarge(maps: Tensor, factor: int) -> Tensor:
    """Return maps ``(B, factor * H, factor * W, ...)`` of maps ``(B, H, W, ...)``, by repeating capsules."""
    if factor == 1:
        return maps
    repeated = maps[:, :, None, :, None].expand(-1, -1, factor, -1, factor, *(-1,) * (maps.ndim - 3))
    return repeated.flatten(3, 4).flatten(1, 2)
