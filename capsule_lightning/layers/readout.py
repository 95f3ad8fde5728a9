"""Read-out: how sure a layer is of a capsule, read from its pose."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capsule_lightning.layers.precision import full_precision


@full_precision
def read_activations(poses: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Activations ``a[j] = sigmoid(w . p[j] + b)``.

    Args:
        poses: ``(..., J, E)``.
        weight: ``(1, E)``, shared by all capsules.
        bias: ``(1)``.

    Returns:
        ``(..., J)`` in [0, 1], float32 or wider; their log-odds are the scores ``w . p[j] + b``.
    """
    return torch.sigmoid(F.linear(poses, weight, bias).squeeze(-1))


class ActivationReadout(nn.Module):
    """One linear score, shared by all capsules of a layer, for algorithms whose capsules are poses alone.

    Args:
        dim: dimensions of a pose, E.

    Source: Tsai et al., Capsules with Inverted Dot-Product Attention Routing, ICLR 2020 (arXiv 2002.04764), who read
    the logits of the classes so.

    Example:
        >>> ActivationReadout(16)(torch.zeros(2, 10, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, poses: Tensor) -> Tensor:
        """Poses ``(..., J, E)`` to activations ``(..., J)`` in [0, 1]."""
        return read_activations(poses, self.score.weight, self.score.bias)
