"""Figures as pixels, and several of them as the frames of a GIF."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 90


def pixels(figure: Figure, dpi: int = DPI) -> np.ndarray:
    """Draw a figure and return its pixels ``(H, W, 3)``, uint8."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    drawn: np.ndarray = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    return drawn


def gif(figures: Iterable[Figure], milliseconds: Sequence[int], colors: int = 64) -> bytes:
    """Return the bytes of a GIF that repeats forever.

    Args:
        figures: the frames, at least one, all of the same size.
        milliseconds: how long each frame stays.
        colors: number of colors of a frame, 2 to 256; fewer make a smaller file.
    """
    from PIL import Image

    frames = [Image.fromarray(pixels(figure)).quantize(colors) for figure in figures]
    file = BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=list(milliseconds), loop=0)
    return file.getvalue()
