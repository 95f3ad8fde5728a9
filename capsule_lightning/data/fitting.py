"""Bring a picture to a size of another shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from capsule_lightning.data.deep_pictures import value_like

if TYPE_CHECKING:
    from PIL import Image

Fit = Literal["squeeze", "crop", "pad"]
"""How: squeezed or stretched to the size; scaled to cover it, and what stands out cut off on both sides alike; or
scaled to lie within it, in the middle of the background."""


def fitted(image: Image.Image, size: tuple[int, int], fit: Fit, color: tuple[int, ...]) -> Image.Image:
    """Return a picture of another size, bilinear and antialiased.

    Args:
        image: gray or color, in bytes; or gray in floats.
        size: rows and columns.
        fit: how it comes to another shape.
        color: red, green and blue of the background.
    """
    from PIL import Image

    rows, columns = size
    if fit == "squeeze":
        return image.resize((columns, rows), Image.Resampling.BILINEAR)
    scales = columns / image.width, rows / image.height
    if fit == "crop":
        width, height = (
            min(part / max(scales), whole) for part, whole in ((columns, image.width), (rows, image.height))
        )
        left, top = (image.width - width) / 2, (image.height - height) / 2
        box = (left, top, left + width, top + height)
        return image.resize((columns, rows), Image.Resampling.BILINEAR, box=box)
    inner = max(round(image.width * min(scales)), 1), max(round(image.height * min(scales)), 1)
    if image.mode == "F":
        around = Image.fromarray(np.full((rows, columns), value_like(np.asarray(image), color), np.float32))
    else:
        around = Image.new("RGB", (columns, rows), color).convert(image.mode)
    around.paste(image.resize(inner, Image.Resampling.BILINEAR), ((columns - inner[0]) // 2, (rows - inner[1]) // 2))
    return around
