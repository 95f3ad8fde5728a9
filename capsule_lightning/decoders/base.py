"""The contract of every decoder, and the mask through which the paper's decoders see the capsules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.layers.precision import full_precision


class Decoder(nn.Module, ABC):
    """A decoder, which reconstructs a picture from the capsule of one class.

    It is built with ``(num_classes, dim, out_shape)``: J class capsules of E dimensions, and the shape ``(C, H, W)`` of
    a picture.

    Attributes:
        masked: whether the first of its `steps` takes all capsules ``(B, J * E)``, zero except that of the label, or
            the label's capsule alone, ``(B, E)``.
    """

    masked: bool = True

    @abstractmethod
    def forward(self, poses: Tensor, labels: Tensor) -> Tensor:
        """Return pictures ``(B, C, H, W)`` in [0, 1] from ``poses (B, J, E)``, those of ``labels (B)`` alone.

        A decoder that is ``masked`` takes several labels of an image as well, see `mask`.
        """

    def steps(self) -> Sequence[nn.Module] | None:
        """Return the layers that, one after the other, are the decoder in evaluation, for pages that compute it.

        They take capsules as ``masked`` says and give pictures ``(B, C, H, W)`` or ``(B, C * H * W)``. None if the
        decoder is not such a chain; a report then has no sliders.
        """
        return None


class Crop(nn.Module):
    """A crop of the center of maps.

    Args:
        rows: rows of what is cut out.
        columns: columns of what is cut out.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    @override
    def forward(self, maps: Tensor) -> Tensor:
        """Return the center ``(..., rows, columns)`` of maps ``(..., H, W)``."""
        top, left = (maps.shape[-2] - self.rows) // 2, (maps.shape[-1] - self.columns) // 2
        return maps[..., top : top + self.rows, left : left + self.columns]


def mask(poses: Tensor, labels: Tensor) -> Tensor:
    """Set every capsule to zero except that of the label.

    Args:
        poses: ``(..., J, E)``.
        labels: ``(...)``, int64 in [0, J); or ``(..., L)`` to keep the capsules of several, -1 for none.

    Returns:
        ``(..., J, E)``.

    Source: Sabour et al. 2017, section 4.1.
    """
    classes = torch.arange(poses.shape[-2], device=poses.device)
    kept = labels.unsqueeze(-1) == classes
    return torch.where((kept.any(dim=-2) if kept.ndim == poses.ndim else kept).unsqueeze(-1), poses, 0)


@full_precision
def picture(logits: Tensor) -> Tensor:
    """Return pixels in [0, 1] of logits of any shape, in full precision: bfloat16 has only some hundred gray values."""
    return torch.sigmoid(logits)
