"""Read-out of activations: how sure a layer is of each capsule, computed from the capsule's pose."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.layers.precision import full_precision


@full_precision
def read_activations(poses: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return activations ``a[j] = sigmoid(w . p[j] + b)``.

    Args:
        poses: ``(..., J, E)``.
        weight: ``(1, E)``, w, shared by all capsules.
        bias: ``(1)``, b.

    Returns:
        ``(..., J)`` in [0, 1], float32 or wider; the log-odds of the activations are the scores ``w . p[j] + b``.
    """
    return torch.sigmoid(F.linear(poses, weight, bias).squeeze(-1))


class ActivationReadout(nn.Module):
    """A linear score of the pose, shared by all capsules of a layer, for algorithms whose capsules are poses alone.

    Args:
        dim: dimensions of a pose, E.

    Source: Tsai et al., Capsules with Inverted Dot-Product Attention Routing, ICLR 2020 (arXiv 2002.04764), who read
    the logits of the classes from the poses this way.

    Example:
        >>> ActivationReadout(16)(torch.zeros(2, 10, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    @override
    def forward(self, poses: Tensor) -> Tensor:
        """Return activations ``(..., J)`` in [0, 1] of poses ``(..., J, E)``."""
        return read_activations(poses, self.score.weight, self.score.bias)
