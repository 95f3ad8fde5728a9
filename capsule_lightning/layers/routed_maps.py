"""Convolutional capsules whose children all vote with the same kernel and are routed over whole maps.

Rajasegaran, Jayasundara, Jayasekara, Jayasekara, Seneviratne & Rodrigo, DeepCaps: Going Deeper with Capsule Networks,
CVPR 2019 (arXiv 1904.09546), section 3. Maps of capsules are ``(B, I, D, H, W)`` here: one map of H rows and W columns
for each of the I types.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.errors import require
from capsule_lightning.layers.couplings import coupling_coefficients, require_passes
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.squash import squash


def map_votes(maps: Tensor, weight: Tensor) -> Tensor:
    """Return the votes of capsule maps, a 3-D convolution whose kernel and stride in depth are one capsule.

    All types of children therefore share the kernel, and the votes are a 2-D convolution of one child's map at a time.

    Args:
        maps: ``(B, I, D, H, W)``, poses of the children.
        weight: ``(J, E, D, K, K)``, K odd.

    Returns:
        ``(B, I, J, E, H, W)``, in the precision that autocast asks for; the maps are padded with zeros.

    Source: Rajasegaran et al. 2019, section 3.
    """
    votes = F.conv2d(maps.flatten(0, 1), weight.flatten(0, 1), padding="same")
    return votes.reshape(*maps.shape[:2], *weight.shape[:2], *votes.shape[2:])


@full_precision
def map_routing(votes: Tensor, iterations: int = 3, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Route the votes of capsule maps; a child divides itself among the parents of all positions together.

    ``c[i] = softmax(b[i])`` over parent types, rows and columns; ``s[j] = sum_i c[i, j] votes[i, j]`` at each position;
    ``v[j] = squash(s[j])``, where the whole map of a parent type is one vector; ``b[i, j] += votes[i, j] . v[j]`` at
    each position. The gradient flows through all passes.

    Args:
        votes: ``(B, I, J, E, H, W)``.
        iterations: number of passes, at least 1; the first has uniform couplings.
        bias: ``(J, E)``, added to ``s`` at every position.

    Returns:
        Poses ``(B, J, E, H, W)``, of length in [0, 1) over the last three axes together, and the couplings
        ``(B, I, J, H, W)`` that they were computed with.

    Raises:
        InputError: ``iterations`` is below 1.

    Source: Rajasegaran et al. 2019, section 3; the bias is that of their released code.
    """
    require_passes(iterations)
    votes = votes.permute(0, 2, 4, 5, 1, 3).contiguous()  # (B, J, H, W, I, E), once for all products below

    def parents(couplings: Tensor) -> Tensor:
        s = (couplings.unsqueeze(-2) @ votes).squeeze(-2)  # (B, J, H, W, E)
        s = s if bias is None else s + bias[:, None, None]
        return squash(s.flatten(2)).view_as(s)

    logits = votes.new_zeros(votes.shape[:-1])  # (B, J, H, W, I), per example, never learnt
    for _ in range(iterations - 1):
        v = parents(_over_parents(logits))
        logits = logits + (votes @ v.unsqueeze(-1)).squeeze(-1)
    couplings = _over_parents(logits)
    return parents(couplings).movedim(-1, 2), couplings.movedim(-1, 1)


def _over_parents(logits: Tensor) -> Tensor:
    """Return the couplings of logits ``(B, J, H, W, I)``."""
    return coupling_coefficients(logits.flatten(1, 3), dim=1).view_as(logits)


def scramble(maps: Tensor) -> Tensor:
    """Reorder capsule maps ``(B, I, D, H, W)`` in the way that the released code of DeepCaps reads them.

    It stores them as ``(B, H, W, I, D)`` and reads that memory as ``(B, I, D, H, W)`` without transposing it, so that
    what it convolves as the neighborhood of a capsule is a mixture of types, coordinates and positions.
    """
    return maps.permute(0, 3, 4, 1, 2).reshape(maps.shape)


class RoutedMaps(nn.Module):
    """The "3-D" capsule layer of DeepCaps: `map_votes`, then `map_routing`.

    Args:
        num_in: types of children, I.
        dim_in: dimensions of their poses, D.
        num_out: types of parents, J.
        dim_out: dimensions of their poses, E.
        kernel_size: rows and columns of the kernel, K, odd.
        iterations: passes of routing.
        scrambled: compute what the released code does, see `scramble`, for comparison with its results.

    Raises:
        InputError: a size or ``iterations`` is below 1, or ``kernel_size`` is even.

    Example:
        >>> layer = RoutedMaps(32, 8, 32, 8)
        >>> layer(torch.rand(2, 32, 8, 4, 4)).shape
        torch.Size([2, 32, 8, 4, 4])
    """

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        kernel_size: int = 3,
        iterations: int = 3,
        scrambled: bool = False,
    ) -> None:
        super().__init__()
        for name, size in {"num_in": num_in, "dim_in": dim_in, "num_out": num_out, "dim_out": dim_out}.items():
            require(size >= 1, f"RoutedMaps: {name}={size}: expected at least 1")
        odd = kernel_size >= 1 and kernel_size % 2 == 1
        require(odd, f"RoutedMaps: kernel_size={kernel_size}: expected an odd number, such as 3")
        require_passes(iterations)
        self.num_in, self.iterations, self.scrambled = num_in, iterations, scrambled
        self.weight = nn.Parameter(torch.empty(num_out, dim_out, dim_in, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.weight.view(-1, *self.weight.shape[2:]), nonlinearity="relu")
        self.bias = nn.Parameter(torch.full((num_out, dim_out), 0.1))

    @override
    def forward(self, maps: Tensor) -> Tensor:
        """Return parents ``(B, J, E, H, W)`` of children ``(B, I, D, H, W)``, in float32 or wider."""
        return self._route(maps)[0]

    def couplings(self, maps: Tensor) -> Tensor:
        """Return couplings ``(B, I, J, H, W)`` of the last pass; those of a child sum to 1 over the last three axes."""
        return self._route(maps)[1]

    @override
    def extra_repr(self) -> str:
        num_out, dim_out, dim_in = self.weight.shape[:3]
        return f"{self.num_in} x {dim_in}D -> {num_out} x {dim_out}D"

    def _route(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        children = scramble(maps) if self.scrambled else maps
        return map_routing(map_votes(children, self.weight), self.iterations, self.bias)
