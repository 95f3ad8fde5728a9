"""Capsules with inverted dot-product attention routing, Tsai, Srivastava, Goh & Salakhutdinov, ICLR 2020, on CIFAR-10.

Two iterations in which all layers update at once, matrix poses; products of three tensors are einsums, left to right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plain_forms.residual import conv, trunk
from plain_forms.windows import windows

ITERATIONS = 2


class AttentionCapsules(nn.Module):
    """A layer of matrix capsules.

    Args:
        num_in: types of children, A.
        num_out: types of parents, J.
        kernel, stride: of the windows.
    """

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        num_in *= kernel**2
        self.weight = nn.Parameter((num_out / (4 * num_in)) ** 0.5 * torch.randn(num_in, num_out, 4, 4))
        self.norm = nn.LayerNorm(16)

    def forward(self, poses: Tensor, parents: Tensor | None = None) -> Tensor:
        """Return the next parents ``(B, y, x, J, 16)`` of maps ``(B, H, W, A, 16)``.

        Args:
            poses: of the children.
            parents: as they are; None for uniform couplings.
        """
        matrices = windows(poses, self.kernel, self.stride).unflatten(-1, (4, 4))  # (B, y, x, I, 4, 4)
        if parents is None:
            logits = matrices.new_zeros(*matrices.shape[:4], self.weight.shape[1])
        else:
            asked = parents.unflatten(-1, (4, 4))
            logits = torch.einsum("...iab,ijbc,...jac->...ij", matrices, self.weight, asked) / 4
        couplings = logits.softmax(dim=-1)
        total = torch.einsum("...ij,...iab,ijbc->...jac", couplings, matrices, self.weight)
        return self.norm(total.flatten(-2))


class AttentionNet(nn.Module):
    """Residual trunk, primary capsules, two layers of convolutional capsules, class capsules with a linear score."""

    def __init__(self, stem: int = 64, planes: tuple[int, int] = (64, 128), blocks: tuple[int, int] = (3, 4)) -> None:
        super().__init__()
        self.trunk = trunk(stem, planes, blocks)
        self.primary, self.norm = conv(planes[-1], 32 * 16, 1), nn.LayerNorm(16)
        self.layers = nn.ModuleList(
            [AttentionCapsules(32, 32, 3, stride=2), AttentionCapsules(32, 32, 3), AttentionCapsules(32, 10, 5)]
        )
        self.score = nn.Linear(16, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the activations ``(B, 10)`` of images ``(B, 3, 32, 32)``."""
        poses = self.primary(self.trunk(images)).unflatten(1, (32, 16)).permute(0, 3, 4, 1, 2)
        values = [self.norm(poses)]
        for layer in self.layers:
            values.append(layer(values[-1]))
        for _ in range(ITERATIONS - 1):
            layers = zip(self.layers, values, values[1:], strict=False)
            values[1:] = [layer(children, parents) for layer, children, parents in layers]
        return torch.sigmoid(self.score(values[-1])).flatten(1)
