"""Reconstruction loss, the squared distance between a picture and its reconstruction."""

from __future__ import annotations

from torch import Tensor

from capsule_lightning.errors import InputError
from capsule_lightning.layers.precision import full_precision


@full_precision
def reconstruction_error(pictures: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of squared differences over the pixels of each picture.

    Args:
        pictures: ``(B, C, H, W)`` in [0, 1].
        targets: the same shape, in [0, 1].

    Returns:
        ``(B)``. The paper adds its batch mean, times 0.0005, to the margin loss.

    Raises:
        InputError: the shapes differ.

    Source: Sabour et al. 2017, section 4.1.
    """
    if pictures.shape != targets.shape:
        raise InputError(f"reconstructions of shape {tuple(pictures.shape)}: expected {tuple(targets.shape)}")
    return (pictures - targets).square().flatten(1).sum(dim=1)
