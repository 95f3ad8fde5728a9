"""Pictures as arrays that matplotlib draws, single and side by side."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def as_array(image: Tensor) -> np.ndarray:
    """Return an image ``(C, H, W)`` in [0, 1] as ``(H, W)`` in gray (a stereo pair's left view), or ``(H, W, 3)``."""
    array: np.ndarray = image.detach().float().cpu().clamp(0, 1).numpy()
    return array[0] if len(array) < 3 else array[:3].transpose(1, 2, 0)


def tile(pictures: Tensor) -> np.ndarray:
    """Lay rows and columns of pictures side by side without gaps.

    Args:
        pictures: ``(R, K, C, H, W)`` in [0, 1].

    Returns:
        ``(R * H, K * W)``, or ``(R * H, K * W, 3)`` in color.
    """
    rows = [torch.cat(list(row), dim=-1) for row in pictures]
    return as_array(torch.cat(rows, dim=-2))
