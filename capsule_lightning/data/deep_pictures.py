"""Pictures with more than 8 bits a channel, which are kept as floats on a scale that a range of values makes."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from capsule_lightning.errors import require

if TYPE_CHECKING:
    from PIL import Image


_AT_ONCE = 500  # images, in float64


def require_range(values: tuple[float, float]) -> None:
    """Refuse two numbers that are no range.

    Raises:
        InputError: they are not finite, or the second is not above the first.
    """
    low, high = values
    require(
        isfinite(low) and isfinite(high) and low < high,
        f"value_range={[low, high]}: expected the value that becomes 0, and a higher one that becomes 1",
    )


def is_range(found: Any) -> bool:
    """Return whether a value, such as one from a file, is two numbers of which the second is above the first."""
    numbers = isinstance(found, list | tuple) and [type(each) for each in found] in ([float] * 2, [int] * 2)
    return numbers and isfinite(found[0]) and isfinite(found[1]) and found[0] < found[1]


def scaled(values: np.ndarray, between: tuple[float, float], invert: bool = False) -> np.ndarray:
    """Return values as float32 on a scale on which a range is 0 to 1.

    Args:
        values: numbers; those outside of the range are below 0 or above 1.
        between: the values that become 0 and 1.
        invert: exchange dark and light.
    """
    low, high = between
    part = ((values.astype(np.float64) - low) / (high - low)).astype(np.float32)
    return 1 - part if invert else part


def scaled_images(images: Tensor, between: tuple[float, float], invert: bool = False) -> Tensor:
    """Return images ``(N, C, H, W)`` as `scaled` makes them, a few at a time."""
    out = torch.empty(images.shape, dtype=torch.float32)
    for start in range(0, len(images), _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        out[here] = torch.from_numpy(scaled(images[here].numpy(), between, invert))
    return out


def one_deep_channel(image: Image.Image) -> bool:
    """Return whether an image has one channel of 16 or 32 bits, all of which Pillow reads."""
    return image.mode.startswith("I") or image.mode == "F"


def is_wide(image: Image.Image) -> bool:
    """Return whether a file has 16 bits a channel, also of color, of which Pillow reads the upper 8.

    Args:
        image: opened, and not decoded yet.
    """
    words = [word for tile in getattr(image, "tile", ()) for word in np.ravel(np.array(tile[3], dtype=object))]
    wide = any(isinstance(word, str) and ";16" in word for word in words)
    return wide or (image.format == "PPM" and any(isinstance(word, int) and word > 255 for word in words))


def all_bits(image: Image.Image, kind: str, color: tuple[int, ...]) -> tuple[Image.Image, bool]:
    """Return a picture of one channel as floats, and whether any of it was transparent and laid on the background.

    Args:
        image: decoded.
        kind: what it is, for the message.
        color: red, green and blue of the background.

    Raises:
        ValueError: it has several channels or 8 bits, or values that are no numbers.
    """
    from PIL import Image

    if not one_deep_channel(image):
        raise ValueError(f"{kind} of 8 bits, expected one channel of 16 bits or more like the images trained on")
    values = np.asarray(image).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("values that are NaN or infinite")
    hole = image.info.get("transparency")
    holes = values == hole if isinstance(hole, int) else np.zeros((), bool)
    if not holes.any():
        return Image.fromarray(values), False
    values[holes] = value_like(values[~holes], color)
    return Image.fromarray(values), True


def value_like(values: np.ndarray, color: tuple[int, ...]) -> float:
    """Return the value that is as bright, between the smallest and the largest of a picture, as a color is."""
    red, green, blue = color
    part = (0.299 * red + 0.587 * green + 0.114 * blue) / 255
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    return low + part * (high - low)
