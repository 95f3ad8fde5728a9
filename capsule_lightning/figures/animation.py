"""Figures as pixels, and one after the other as a GIF."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 90


def pixels(figure: Figure, dpi: int = DPI) -> np.ndarray:
    """A figure as ``(H, W, 3)`` uint8."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    drawn: np.ndarray = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    return drawn


def gif(figures: Iterable[Figure], milliseconds: Sequence[int], colors: int = 64) -> bytes:
    """A GIF that begins again at its end.

    Args:
        figures: the frames, all of one size, at least one.
        milliseconds: for which each of them stays.
        colors: of a frame, 2 to 256; fewer make a smaller file.
    """
    from PIL import Image

    frames = [Image.fromarray(pixels(figure)).quantize(colors) for figure in figures]
    file = BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=list(milliseconds), loop=0)
    return file.getvalue()
