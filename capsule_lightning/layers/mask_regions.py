"""What is done to the masks of a network before they are used: named steps, each with a reason of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

Step = Literal["largest_component", "fill_holes"]

_TOUCHING = np.ones((3, 3), dtype=bool)  # pixels touch at corners, too


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return of a mask ``(H, W)`` bool the connected region with the most pixels; the first of two equal ones."""
    regions, count = ndimage.label(mask, _TOUCHING)
    if count < 2:
        return mask
    largest: np.ndarray = regions == 1 + np.bincount(regions.ravel())[1:].argmax()
    return largest


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Return a mask ``(H, W)`` bool with what it encloses."""
    filled: np.ndarray = ndimage.binary_fill_holes(mask)
    return filled


STEPS: Mapping[Step, Callable[[np.ndarray], np.ndarray]] = {
    "largest_component": largest_component,
    "fill_holes": fill_holes,
}
"""The steps by their names."""


def processed(masks: Tensor, steps: Sequence[Step]) -> Tensor:
    """Return masks after some steps, each of which is done to one class after the other.

    A pixel that is taken from a class becomes background. One that is added to a class is background before: no class
    takes pixels from another.

    Args:
        masks: ``(B, H, W)`` int64, 0 is the background.
        steps: names of the steps, in order.

    Returns:
        The same shape, on the same device.
    """
    if not steps:
        return masks
    found = masks.cpu().numpy().copy()
    for mask in found:
        for step in steps:
            for label in np.unique(mask):
                if label > 0:
                    before = mask == label
                    after = STEPS[step](before)
                    mask[before & ~after] = 0
                    mask[after & (mask == 0)] = label
    return torch.from_numpy(found).to(masks.device)
