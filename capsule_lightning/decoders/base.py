"""The contract of every decoder, and the mask through which the paper's decoders see the capsules."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from capsule_lightning.layers.precision import full_precision


class Decoder(nn.Module, ABC):
    """A decoder, which reconstructs a picture from the capsule of one class.

    It is built with ``(num_classes, dim, out_shape)``: J class capsules of E dimensions, and the shape ``(C, H, W)`` of
    a picture.
    """

    @abstractmethod
    def forward(self, poses: Tensor, labels: Tensor) -> Tensor:
        """Return pictures ``(B, C, H, W)`` in [0, 1] from ``poses (B, J, E)``, those of ``labels (B)`` alone."""


def mask(poses: Tensor, labels: Tensor) -> Tensor:
    """Set every capsule to zero except that of the label.

    Args:
        poses: ``(B, J, E)``.
        labels: ``(B)``, int64 in [0, J).

    Returns:
        ``(B, J, E)``.

    Source: Sabour et al. 2017, section 4.1.
    """
    classes = torch.arange(poses.shape[-2], device=poses.device)
    return torch.where((labels.unsqueeze(-1) == classes).unsqueeze(-1), poses, 0)


@full_precision
def picture(logits: Tensor) -> Tensor:
    """Return pixels in [0, 1] of logits of any shape, in full precision: bfloat16 has only some hundred gray values."""
    return torch.sigmoid(logits)
